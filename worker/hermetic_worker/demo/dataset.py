"""Drawn scenes kept on disk, so that each training stage reads the same pictures.

Owns the files of the `data` stage. Never draws at training time.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .shapes import SIDE, Style, draw, sample_scene

SCENES: dict[Style, int] = {"flat": 20_000, "bold": 6_000}
"""How many scenes of each style are drawn."""


@dataclass(frozen=True)
class Dataset:
    """Pictures (count, 3, 64, 64) uint8 and the caption of each."""

    pixels: Tensor
    captions: list[str]

    def pictures(self, chosen: Tensor) -> Tensor:
        """The chosen pictures as diffusers wants them: float32, -1 to 1."""
        return self.pixels[chosen].float() / 127.5 - 1

    def first(self, count: int) -> "Dataset":
        """The first pictures alone."""
        return Dataset(self.pixels[:count], self.captions[:count])

    def singles(self) -> "Dataset":
        """The pictures of one shape alone."""
        kept = [i for i, caption in enumerate(self.captions) if " and " not in caption]
        return Dataset(self.pixels[kept], [self.captions[i] for i in kept])


def make(style: Style, seed: int) -> Dataset:
    """Draw the data of one style."""
    # A style has scenes of its own: the two models share no training picture.
    rng = random.Random(f"{seed} {style}")
    count = SCENES[style]
    pixels = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    captions = []
    for index in range(count):
        scene = sample_scene(rng)
        pixels[index] = draw(scene, style)
        captions.append(scene.caption)
    return Dataset(pixels, captions)


def save(dataset: Dataset, file: Path) -> None:
    """Write a dataset as one file."""
    torch.save({"pixels": dataset.pixels, "captions": dataset.captions}, file)


def load(file: Path) -> Dataset:
    """Read a dataset that `save` wrote."""
    kept = torch.load(file, weights_only=True, mmap=True)
    return Dataset(kept["pixels"], kept["captions"])
