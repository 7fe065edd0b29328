"""The whole program, on a handful of scenes: it ends in two folders that diffusers loads."""

import sys
from pathlib import Path

import pytest
import torch

from hermetic_worker.demo import dataset, train, unet
from hermetic_worker.demo.score import cases, generate

# Of diffusers' multistep schedulers under numpy 2.4, at every picture.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_every_stage_runs_and_the_folders_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for style in list(dataset.SCENES):
        monkeypatch.setitem(dataset.SCENES, style, 6)
    options = ["all", "--work", str(tmp_path), "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    train.main()
    for name in ("demo-sd15", "demo-sdxl"):
        (picture,) = generate(tmp_path / "models" / name, cases()[:1])
        assert picture.shape == (3, 64, 64)


def test_the_sdxl_layout_starts_as_the_same_function() -> None:
    sd15 = unet.build("sd15").eval()
    sdxl = unet.to_sdxl(sd15).eval()
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 9, 768, generator=generator)
    rest = torch.randn(2, 9, 512, generator=generator)
    added = {"text_embeds": torch.randn(2, 1280), "time_ids": torch.full((2, 6), 64.0)}
    both = torch.cat([text, text, rest], 2)
    with torch.no_grad():
        narrow = sd15(noisy, 500, encoder_hidden_states=text).sample
        wide = sdxl(noisy, 500, encoder_hidden_states=both, added_cond_kwargs=added).sample
    torch.testing.assert_close(wide, narrow, atol=1e-4, rtol=0)
