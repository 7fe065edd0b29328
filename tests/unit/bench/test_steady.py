"""Two arms are compared by their speed only where they draw the same."""

from __future__ import annotations

import pytest
from PIL import Image

import steady
from _arms import BenchError


def picture(*pixel: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, pixel)


def test_pictures_may_differ_by_rounding_alone() -> None:
    steady.compare({"bare": [picture(9, 9, 9)], "daemon": [picture(9, 8, 9)]})


@pytest.mark.parametrize("other", [picture(9, 9, 80), picture(9, 9, 9, size=(8, 16))])
def test_an_arm_that_draws_something_else_ends_it(other: Image.Image) -> None:
    with pytest.raises(BenchError, match="daemon and bare"):
        steady.compare({"bare": [picture(9, 9, 9)], "daemon": [other]})
