"""PNG files that say how they were made: for people as A1111 writes it, for programs as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import TextToImage

from ._result import Result
from ._updates import Preview
from ._version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["parameters_text", "record", "save_png", "save_preview"]


def save_png(
    image: Image, path: str | os.PathLike[str] | IO[bytes], *, result: Result, index: int = 0
) -> None:
    """Writes image `index` of a result, whole or not at all, over whatever is there.

    An open binary file is written to as it is. The text chunks are `parameters` and `hermetic`: see
    `parameters_text` and `record`. Raises OSError, and InvalidParameter for a result that has no
    such image.
    """
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("parameters", parameters_text(result, index))
    chunks.add_text("hermetic", json.dumps(record(result, index)))
    if not isinstance(path, (str, os.PathLike)):
        image.save(path, format="PNG", pnginfo=chunks)
        return
    with _whole_file(Path(path)) as file:
        image.save(file, format="PNG", pnginfo=chunks)


def save_preview(preview: Preview, path: str | os.PathLike[str]) -> None:
    """Writes a preview as a PNG, whole or not at all, over whatever is there. Raises OSError."""
    with _whole_file(Path(path)) as file:
        preview.image.save(file, format="PNG")


@contextmanager
def _whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes the target's place once it is complete."""
    # In the same directory, because only there a rename is atomic.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def parameters_text(result: Result, index: int = 0) -> str:
    """The text that A1111's web UI writes, and many programs read: prompt, negative, settings."""
    task = _task(result, index)
    settings = {
        "Steps": task.steps,
        "CFG scale": task.guidance,
        "Seed": _seed(result, index),
        "Size": "{}x{}".format(*result.sizes[index]),
        "Model": result.worker.model,
        **{name: task.extra[name] for name in sorted(task.extra)},
        "Version": f"hermetic {__version__}",
    }
    lines = [_prompt(task, index)]
    if negative := _negative_prompt(task, index):
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def record(result: Result, index: int = 0) -> dict[str, Any]:
    """All there is to know of one image, as JSON can hold it.

    `prompt`, `negative_prompt` and `seed` are this image's. With `batch_seed` true the seed is the
    whole batch's, and only the same `task` draws this picture again.
    """
    task = _task(result, index)
    width, height = result.sizes[index]
    return {
        "hermetic": __version__,
        "job_id": result.job_id,
        "index": index,
        "prompt": _prompt(task, index),
        "negative_prompt": _negative_prompt(task, index),
        "seed": _seed(result, index),
        "batch_seed": len(result.seeds) < len(result.sizes),
        "width": width,
        "height": height,
        "model": result.worker.model,
        "architecture": result.worker.architecture,
        "task": msgspec.to_builtins(task),
        "worker": msgspec.to_builtins(result.worker),
        "timings": result.timings,
        "memory": result.memory,
    }


def _task(result: Result, index: int) -> TextToImage:
    if not isinstance(result.task, TextToImage) or not 0 <= index < len(result.sizes):
        raise InvalidParameter(
            f"Job {result.job_id} made {len(result.sizes)} images; number {index} is none of them."
        )
    return result.task


def _seed(result: Result, index: int) -> int | None:
    """One of one per image, or the batch's."""
    if len(result.seeds) == len(result.sizes):
        return result.seeds[index]
    return result.seeds[0] if result.seeds else None


def _prompt(task: TextToImage, index: int) -> str:
    return task.prompts[index // task.images_per_prompt]


def _negative_prompt(task: TextToImage, index: int) -> str:
    match task.negative_prompts:
        case ():
            return ""
        case (one,):
            return one
        case several:
            return several[index // task.images_per_prompt]
