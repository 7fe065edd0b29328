"""The promise: what one model did cannot reach the next. Real pipelines, the founding mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hermetic import Client
from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PROMPT = "a red circle"
SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 7.5, "width": 64, "height": 64}
FOUNDING_ERROR = "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)"
OTHER_DIRECTION = "`pooled_prompt_embeds` also have to be passed"

BARE = """
import sys, torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
logging.set_verbosity_error()
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
pipeline.set_progress_bar_config(disable=True)
image = pipeline(
    sys.argv[2], num_inference_steps=2, guidance_scale=7.5, width=64, height=64,
    generator=torch.Generator().manual_seed(11),
).images[0]
sys.stdout.buffer.write(image.tobytes())
"""


def draw(client: Client, model: str, seed: int = 11) -> bytes:
    result = client.generate(PROMPT, model=model, seed=seed, **SETTINGS)
    return bytes(result.pixels[0])


@pytest.fixture(scope="module")
def leak(tiny: dict[str, Path]) -> dict[str, str]:
    """The in-process reproduction's own report."""
    folders = [str(tiny["tiny-sd15"]), str(tiny["tiny-sdxl"])]
    done = subprocess.run(
        [sys.executable, "-m", "hermetic_worker.leak", *folders, "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, str] = json.loads(done.stdout)
    return report


def test_one_process_leaks_in_both_directions_with_the_texts_of_the_report(
    leak: dict[str, str],
) -> None:
    texts = json.dumps(leak)
    assert FOUNDING_ERROR in texts
    assert OTHER_DIRECTION in texts


def test_hermetic_switches_in_both_directions_and_never_says_either(
    leak: dict[str, str], tiny_daemon: RunningDaemon
) -> None:
    """The same two models, the same prompt: A, B, A."""
    with tiny_daemon.client() as client:
        first, other, again = (
            draw(client, model) for model in ("tiny-sd15", "tiny-sdxl", "tiny-sd15")
        )
        assert {row.state for row in client.jobs()} == {"succeeded"}
    assert first == again != other
    log = tiny_daemon.log.read_text()
    assert "mat1 and mat2" not in log
    assert "pooled_prompt_embeds" not in log


@pytest.mark.parametrize("model", ["tiny-sd15", "tiny-sdxl"])
def test_hermetic_gives_the_bits_of_bare_diffusers(
    model: str, tiny: dict[str, Path], tiny_daemon: RunningDaemon
) -> None:
    bare = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BARE, str(tiny[model]), PROMPT],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=110,
        check=True,
    ).stdout
    with tiny_daemon.client() as client:
        assert draw(client, model) == bare


def test_a_batch_gives_the_bits_of_single_images(tiny_daemon: RunningDaemon) -> None:
    with tiny_daemon.client() as client:
        batch = client.generate(PROMPT, model="tiny-sd15", seed=11, n=3, **SETTINGS)
        assert list(batch.seeds) == [11, 12, 13]
        singles = [draw(client, "tiny-sd15", seed) for seed in batch.seeds]
        assert [bytes(pixels) for pixels in batch.pixels] == singles


def test_a_folder_of_mixed_components_is_refused_before_a_worker_is_touched(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for part in tiny["tiny-sd15"].iterdir():
        (mixed / part.name).symlink_to(part)
    (mixed / "text_encoder").unlink()
    (mixed / "text_encoder").symlink_to(tiny["tiny-sdxl"] / "text_encoder_2")
    with RunningDaemon(f'[models.mixed]\npath = "{mixed}"\n') as daemon, daemon.client() as client:
        row = client.model("mixed")
        assert row.problem
        assert "text_encoder.hidden_size 1280" in row.problem
        with pytest.raises(Exception, match="mixes components") as refused:
            client.generate(PROMPT, model="mixed")
        assert getattr(refused.value, "code", None) == "model_invalid"
        assert client.workers() == []


def test_a_model_damaged_on_disk_fails_its_load_in_words_and_the_next_one_runs(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for part in tiny["tiny-sd15"].iterdir():
        (damaged / part.name).symlink_to(part)
    (damaged / "unet").unlink()
    (damaged / "unet").mkdir()
    for part in (tiny["tiny-sd15"] / "unet").iterdir():
        content = part.read_bytes()
        cut = len(content) // 2 if part.suffix == ".safetensors" else len(content)
        (damaged / "unet" / part.name).write_bytes(content[:cut])
    config = f'[models.damaged]\npath = "{damaged}"\n'
    with RunningDaemon(config) as daemon, daemon.client() as client:
        with pytest.raises(Exception, match="damaged") as failed:
            client.generate(PROMPT, model="damaged", **SETTINGS)
        assert getattr(failed.value, "code", None) in ("load_failed", "model_invalid")
        assert client.generate("next", model="echo").images
