"""A pipeline's pixels as the wire carries them: one raw frame of 8-bit RGB per image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hermetic_wire.errors import GenerationFailed
from hermetic_wire.generation import Image

__all__ = ["framed"]


def framed(pixels: npt.NDArray[np.floating[Any]]) -> tuple[tuple[Image, ...], list[memoryview]]:
    """The images and their frames from `(count, height, width, 3)` values of 0 to 1.

    Rounded exactly as diffusers does for its PIL images (`numpy_to_pil`), so the bytes are the
    same. The frames are views of one new array that nobody writes to again. Raises
    GenerationFailed for NaN, which would otherwise become a black image.
    """
    if not np.isfinite(pixels).all():
        raise GenerationFailed(
            "The model drew no numbers (NaN) where pixels should be. Set the model's dtype to "
            "float32, or lower the guidance."
        )
    _, height, width, _ = pixels.shape
    rounded = np.ascontiguousarray((pixels * 255).round().astype(np.uint8))
    frames = [memoryview(one).cast("B") for one in rounded]
    return (Image(width=width, height=height),) * len(frames), frames
