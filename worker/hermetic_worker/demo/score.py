"""Scores a model folder: `python -m hermetic_worker.demo.score FOLDER [--json] [--sheet FILE]`.

Asks for 120 pictures with the model's own defaults and counts how often the shape's colour, the
background's colour and the shape are as asked.
"""

import argparse
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .judge import Verdict, judge
from .shapes import KINDS, PALETTE, with_article

_MIXED = 32
_BATCH = 20
_FIRST_SEED = 1000
_ASPECTS = ("colour", "background", "kind")


@dataclass(frozen=True)
class Case:
    """One prompt, its seed, and what its picture must show."""

    prompt: str
    seed: int
    wanted: Verdict


@dataclass(frozen=True)
class Report:
    """The share of right pictures, 0 to 1: of each aspect, of all three, and of each class."""

    count: int
    totals: dict[str, float]
    classes: dict[str, dict[str, float]]
    misses: list[str]


def cases() -> list[Case]:
    """The 120 prompts: every colour and shape on white, and 32 on mixed backgrounds."""
    wanted = [(c, "white", k) for c in PALETTE if c != "white" for k in KINDS]
    rng = random.Random("mixed")
    for number in range(_MIXED):
        # White cannot be asked for on white: it gets a quarter of the mixed ones.
        colour = "white" if number % 4 == 0 else rng.choice(list(PALETTE))
        background = rng.choice([c for c in PALETTE if c not in (colour, "white")])
        wanted.append((colour, background, KINDS[(number + number // 8) % len(KINDS)]))
    made = []
    for number, (colour, background, kind) in enumerate(wanted):
        prompt = with_article(f"{colour} {kind}")
        if background != "white" or number % 2:
            prompt += f" on {with_article(background)} background"
        made.append(Case(prompt, _FIRST_SEED + number, Verdict(colour, background, kind)))
    return made


def score(asked: Sequence[Case], pictures: Iterable[Tensor]) -> Report:
    """Compare pictures, uint8 (3, height, width), with what was asked for."""
    right: dict[str, list[bool]] = defaultdict(list)
    classes: dict[str, dict[str, list[bool]]] = {a: defaultdict(list) for a in _ASPECTS}
    misses = []
    for case, picture in zip(asked, pictures, strict=True):
        seen = judge(picture)
        for aspect in _ASPECTS:
            name = getattr(case.wanted, aspect)
            hit = getattr(seen, aspect) == name
            right[aspect].append(hit)
            classes[aspect][name].append(hit)
        right["all"].append(seen == case.wanted)
        if seen != case.wanted:
            misses.append(f"{case.prompt}: {seen.colour} {seen.kind} on {seen.background}")
    return Report(
        len(asked),
        {aspect: _share(hits) for aspect, hits in right.items()},
        {a: {name: _share(hits) for name, hits in of.items()} for a, of in classes.items()},
        misses,
    )


def generate(folder: Path, asked: Sequence[Case]) -> list[Tensor]:
    """One picture per case, uint8 (3, height, width), with the defaults of the model's manifest.

    A picture depends on its own seed alone, not on the others of its batch.
    """
    from diffusers import DiffusionPipeline  # seconds to import: not for --help

    pipeline: Any = DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    defaults = json.loads((folder / "hermetic.json").read_text(encoding="utf-8"))["defaults"]
    pictures = []
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        images = pipeline(
            [case.prompt for case in batch],
            num_inference_steps=defaults["steps"],
            guidance_scale=defaults["guidance"],
            width=defaults["width"],
            height=defaults["height"],
            generator=[torch.Generator().manual_seed(case.seed) for case in batch],
            output_type="np",
        ).images
        levels = (torch.from_numpy(images) * 255).round().to(torch.uint8)
        pictures += levels.permute(0, 3, 1, 2)
    return pictures


def write_sheet(pictures: Sequence[Tensor], file: Path, columns: int = 12, zoom: int = 2) -> None:
    """Write all pictures as one, row by row, each pixel ``zoom`` pixels wide."""
    from PIL import Image

    blank = torch.zeros_like(pictures[0])
    padded = [*pictures, *[blank] * (-len(pictures) % columns)]
    rows = [torch.cat(padded[i : i + columns], 2) for i in range(0, len(padded), columns)]
    sheet = torch.cat(rows, 1).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(file)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m hermetic_worker.demo.score")
    parser.add_argument("folder", type=Path, help="a model folder with model_index.json")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--sheet", type=Path, help="write the 120 pictures to this PNG file")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(arguments.threads)
    asked = cases()
    pictures = generate(arguments.folder, asked)
    if arguments.sheet:
        write_sheet(pictures, arguments.sheet)
    report = score(asked, pictures)
    text = json.dumps(report.__dict__, indent=2) if arguments.json else _as_text(report)
    sys.stdout.write(text + "\n")


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def _as_text(report: Report) -> str:
    lines = [f"{report.count} pictures"]
    for aspect, share in report.totals.items():
        of = report.classes.get(aspect, {})
        each = "  ".join(f"{name} {100 * part:.0f}" for name, part in of.items())
        lines.append(f"{aspect:<10} {100 * share:5.1f} %  {each}")
    return "\n".join([*lines, *(f"  {miss}" for miss in report.misses)])


if __name__ == "__main__":
    main()
