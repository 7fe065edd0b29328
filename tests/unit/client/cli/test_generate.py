"""`generate`: what is asked for, what is written, what is said meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from hermetic import Preview
from hermetic.cli.saving import file_names
from hermetic_wire.errors import GenerationFailed, JobCancelled
from hermetic_wire.generation import Image as Size
from hermetic_wire.messages import JobPreview, ModelRow, WorkerRow
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import JOB_ID, FakeClient


def test_options_reach_the_job(client: FakeClient, run: Run, tmp_path: Path) -> None:
    done = run(
        *("generate", "a ring", "-m", "demo-sdxl", "--negative", "blur", "--steps", "12"),
        *("--size", "64x96", "--guidance", "2.5", "--seed", "7", "-n", "2"),
        *("--set", "clip_skip=2", "--set", "tiled=true", "--set", "eta=0.5", "--set", "mode=soft"),
        *("--priority", "low", "--expires-in", "5m", "--keep-alive", "-1"),
        *("-o", str(tmp_path / "ring.png")),
    )
    assert done.exit_code == 0, done.output
    assert client.asked("submit") == [
        {
            "prompt": ("a ring",),
            "model": "demo-sdxl",
            "negative_prompt": "blur",
            "width": 64,
            "height": 96,
            "steps": 12,
            "guidance": 2.5,
            "seed": 7,
            "n": 2,
            "priority": "low",
            "expires_in": 300.0,
            "keep_alive": -1.0,
            "preview_seconds": None,
            "clip_skip": 2,
            "tiled": True,
            "eta": 0.5,
            "mode": "soft",
        }
    ]


def test_files_are_named_on_stdout_and_nothing_else(run: Run) -> None:
    done = run("generate", "a ring")
    assert done.stdout == "hermetic-3f2a91bc.png\n"


def test_a_png_is_written_with_its_parameters(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ring.png"
    assert run("generate", "a ring", "-o", str(file)).exit_code == 0
    with Image.open(file) as image:
        assert image.size == (8, 8)
        assert "a ring" in image.info["parameters"]


def test_several_prompts_are_one_job(client: FakeClient, run: Run, tmp_path: Path) -> None:
    done = run("generate", "a ring", "a star", "-o", str(tmp_path / "two.png"))
    assert client.asked("submit")[0]["prompt"] == ("a ring", "a star")
    assert done.stdout.split() == [str(tmp_path / "two-1.png"), str(tmp_path / "two-2.png")]


@pytest.mark.parametrize(
    ("output", "images", "names"),
    [
        (None, 1, ["hermetic-3f2a91bc.png"]),
        (None, 2, ["hermetic-3f2a91bc-1.png", "hermetic-3f2a91bc-2.png"]),
        ("dir/x.png", 1, ["dir/x.png"]),
        ("dir/x.png", 2, ["dir/x-1.png", "dir/x-2.png"]),
        ("x", 2, ["x-1", "x-2"]),
        ("x.PNG", 11, [f"x-{i:02}.PNG" for i in range(1, 12)]),
    ],
)
def test_names(output: str | None, images: int, names: list[str]) -> None:
    assert list(map(str, file_names(output, JOB_ID, images))) == names


def test_one_png_to_stdout(run: Run) -> None:
    done = run("generate", "a ring", "-o", "-")
    assert done.stdout_bytes.startswith(b"\x89PNG")
    assert done.stdout_bytes.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "-", "-n", "2"),
        ("-o", "-", "--json"),
        ("-o", "ring.jpg"),
        ("-o", "no/such/directory/ring.png"),
        ("-o", "/dev/null"),
        ("--size", "64by64"),
        ("--set", "clip_skip"),
        ("--set", "seed=3"),
        ("--steps", "0"),
        ("--expires-in", "soon"),
        ("--priority", "urgent"),
        ("--detach", "-o", "ring.png"),
        ("--detach", "--preview-file", "ring.png"),
        ("--preview-seconds", "2"),
        ("--preview-file", "ring.jpg"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_job(
    client: FakeClient, run: Run, words: tuple[str, ...]
) -> None:
    assert run("generate", "a ring", *words).exit_code == 2
    assert client.calls == []


def test_json(run: Run) -> None:
    found = json.loads(run("generate", "a ring", "--json").stdout)
    assert found["files"] == ["hermetic-3f2a91bc.png"]
    assert found["worker"]["pid"] == 4242
    assert found["task"]["prompts"] == ["a ring"]
    assert found["timings"]["total"] == 1.75


def test_progress_off_a_terminal_is_a_line_per_change(run: Run) -> None:
    said = run("generate", "a ring", "-m", "easel").stderr.splitlines()
    assert said[:-1] == [
        "easel: waiting, 1 before it",
        "easel: next in turn",
        "easel: loading: unet",
        "easel: loading: smoke run",
        "easel: running in process 4242, epoch 3",
        "easel: step 2 of 8",
        "easel: step 4 of 8",
        "easel: step 6 of 8",
        "easel: step 8 of 8",
    ]
    assert said[-1].startswith("1 image by easel (process 4242, epoch 3, cpu): denoise 1.50 s")


def test_quiet(run: Run) -> None:
    assert run("generate", "a ring", "--quiet").stderr == ""


def test_the_loaded_model_is_the_default(client: FakeClient, run: Run) -> None:
    client.worker_rows = [
        WorkerRow(model="easel", architecture="sdxl", epoch=1, pid=2, device="cpu", state="ready")
    ]
    done = run("generate", "a ring")
    assert client.asked("submit")[0]["model"] == "easel"
    assert "model: easel (it is loaded" in done.stderr


def test_else_the_first_usable_model_and_never_a_broken_one(client: FakeClient, run: Run) -> None:
    client.model_rows = [
        ModelRow(name="a-bent", architecture="sd15", source="configured", problem="bent"),
        ModelRow(name="b-echo", architecture="echo", source="built-in"),
        ModelRow(name="c-demo", architecture="sd15", source="embedded"),
    ]
    done = run("generate", "a ring")
    assert client.asked("submit")[0]["model"] == "c-demo"
    assert "model: c-demo (the first usable one" in done.stderr


def test_no_usable_model(client: FakeClient, run: Run) -> None:
    client.model_rows = []
    assert run("generate", "a ring").exit_code == 66


def test_a_failed_job(client: FakeClient, run: Run) -> None:
    client.end = GenerationFailed("The pipeline raised.", report="worker 7: signal 9\nstderr: ow")
    done = run("generate", "a ring", "--json")
    assert done.exit_code == 70
    assert "hermetic: error: The pipeline raised." in done.stderr
    assert "stderr: ow" in done.stderr
    assert json.loads(done.stdout)["error"]["report"] == "worker 7: signal 9\nstderr: ow"


def test_ctrl_c_cancels_and_waits_for_the_end(client: FakeClient, run: Run) -> None:
    client.script = [*client.script[:6], KeyboardInterrupt(), *client.script[6:]]
    client.end = JobCancelled("It was cancelled.")
    done = run("generate", "a ring")
    assert done.exit_code == 130
    assert client.started is not None
    assert client.started.cancelled == 1
    assert list(client.started) == [], "the end was waited for"
    assert done.stdout == ""


def test_a_second_ctrl_c_leaves(client: FakeClient, run: Run) -> None:
    client.script = [KeyboardInterrupt(), KeyboardInterrupt(), *client.script]
    done = run("generate", "a ring")
    assert done.exit_code == 130
    assert client.started is not None
    assert list(client.started), "nobody waits for the end"


def test_a_detached_job_is_left_to_the_daemon(client: FakeClient, run: Run) -> None:
    done = run("generate", "a ring", "-m", "easel", "--detach")
    assert (done.stdout, done.stderr) == (f"{JOB_ID}\n", "")
    assert client.started is not None
    assert list(client.started), "nobody waits for the end"
    found = json.loads(run("generate", "a ring", "--detach", "--json").stdout)
    assert found == {"job_id": JOB_ID}


def preview(shade: int) -> Preview:
    shown = JobPreview(job_id=JOB_ID, step=1, image=Size(width=2, height=1))
    return Preview(shown, [bytes([shade] * 6)])


def test_the_newest_preview_is_in_its_file(client: FakeClient, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "so-far.png"
    client.script = [preview(1), preview(9)]
    done = run("generate", "a ring", "--preview-file", str(file), "--preview-seconds", "250ms")
    assert done.exit_code == 0, done.output
    assert client.asked("submit")[0]["preview_seconds"] == 0.25
    with Image.open(file) as image:
        assert image.size == (2, 1)
        assert image.getpixel((0, 0)) == (9, 9, 9)
    assert {one.name for one in tmp_path.iterdir()} == {file.name, "hermetic-3f2a91bc.png"}


def test_previews_that_cannot_be_written_cost_no_image(
    client: FakeClient, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "so-far.png"
    (tmp_path / f".{file.name}.{os.getpid()}.partial").mkdir()
    client.script = [preview(1), preview(9)]
    done = run("generate", "a ring", "--preview-file", str(file))
    assert done.exit_code == 0
    assert done.stderr.count("the preview is not written") == 1
    assert done.stdout == "hermetic-3f2a91bc.png\n"


def test_previews_come_once_a_second_unless_told(client: FakeClient, run: Run) -> None:
    run("generate", "a ring", "--preview-file", "so-far.png")
    assert client.asked("submit")[0]["preview_seconds"] == 1.0
