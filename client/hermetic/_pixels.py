"""Raw frames as pixels. Copies nothing until an image is asked for; imports Pillow only then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermetic_wire.codec import Frame
from hermetic_wire.errors import HermeticError, MalformedMessage
from hermetic_wire.generation import Image

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["checked_pixels", "to_image"]


def checked_pixels(what: str, images: Sequence[Image], raw: Sequence[Frame]) -> list[memoryview]:
    """The frames, read-only. Raises MalformedMessage when they do not fit the stated sizes."""
    wanted = [image.width * image.height * 3 for image in images]
    pixels = [memoryview(frame).toreadonly() for frame in raw]
    found = [frame.nbytes for frame in pixels]
    if wanted != found:
        raise MalformedMessage(
            f"The {what}'s images need raw frames of {wanted} bytes; frames of {found} came."
        )
    return pixels


def to_image(size: tuple[int, int], pixels: memoryview) -> PIL.Image.Image:
    """A copy as an image, RGB. Raises HermeticError when Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise HermeticError(
            "Images need Pillow, which is not installed: pip install 'hermetic[images]'. "
            "The pixels can be had without it."
        ) from error
    return Image.frombytes("RGB", size, pixels)
