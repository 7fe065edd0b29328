"""The demo's files: a PNG per image and round, and the contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hermetic.cli.output import duration
from hermetic.png import save_png

from .contact_sheet import Row, contact_sheet
from .rounds import Round

__all__ = ["save_pictures"]

_TITLE = "Two models, one socket, a new process at every switch"
_SUBTITLE = "The same prompts and seeds in every round. What a dead process knew cannot leak."


def save_pictures(rounds: Sequence[Round], prompts: Sequence[str], out: Path) -> list[Path]:
    """Write all images and then the contact sheet into `out`; the files, in that order."""
    files: list[Path] = []
    for one in rounds:
        for index, image in enumerate(one.result.images):
            file = out / f"round{one.number}-{one.model}-{index + 1}.png"
            save_png(image, file, result=one.result, index=index)
            files.append(file)
    sheet = out / "contact-sheet.png"
    contact_sheet(_TITLE, _SUBTITLE, prompts, _rows(rounds)).save(sheet, optimize=True)
    return [*files, sheet]


def _rows(rounds: Sequence[Round]) -> list[Row]:
    return [
        Row(
            model=one.model,
            notes=_notes(one),
            images=one.result.images,
            verdict=_verdict(one, rounds),
            switch=_switch(rounds[index - 1], one) if index else "",
        )
        for index, one in enumerate(rounds)
    ]


def _notes(one: Round) -> list[str]:
    worker = one.result.worker
    notes = [f"round {one.number}", f"process {worker.pid}, epoch {worker.epoch}"]
    if one.seconds_per_image is not None:
        notes.append(f"{duration(one.seconds_per_image)} per image")
    return notes


def _verdict(one: Round, rounds: Sequence[Round]) -> str:
    for earlier in rounds[: one.number - 1]:
        if earlier.model == one.model:
            same = "bit-identical to" if earlier.digests == one.digests else "DIFFERS FROM"
            return f"{same} round {earlier.number}"
    return ""


def _switch(former: Round, one: Round) -> str:
    took = one.result.timings.get("switch")
    gone = "is gone" if one.former_gone else "was told to end"
    return f"switch: process {former.result.worker.pid} {gone}" + (
        f", {one.model} is ready after {duration(took)}" if took is not None else ""
    )
