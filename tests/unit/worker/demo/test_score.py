"""The scorer, on drawn pictures: it accepts what it should, and it can say no."""

import dataclasses
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from hermetic_worker.demo.judge import Verdict, judge
from hermetic_worker.demo.score import Case, Report, cases, score, write_sheet
from hermetic_worker.demo.shapes import KINDS, PALETTE, Scene, Shape, Style, draw

CASES = cases()
_T = TypeVar("_T")


def drawn(wanted: Verdict, style: Style = "flat", **shape: float) -> Tensor:
    """A perfect picture of what a verdict says."""
    assert wanted.colour
    assert wanted.kind
    assert wanted.background
    content = (Shape(wanted.colour, wanted.kind, **shape),)
    return draw(Scene("", wanted.background, content), style)


def scored(pictures: list[Tensor]) -> Report:
    return score(CASES, pictures)


def rolled(items: list[_T]) -> list[_T]:
    """The first becomes the last."""
    return [*items[1:], items[0]]


def test_there_are_120_prompts_that_name_every_colour_and_shape() -> None:
    assert len(CASES) == 120
    assert len({case.seed for case in CASES}) == 120
    assert {case.wanted.colour for case in CASES} == set(PALETTE)
    assert {case.wanted.background for case in CASES} == set(PALETTE)
    assert {case.wanted.kind for case in CASES} == set(KINDS)
    assert not [case for case in CASES if case.wanted.colour == case.wanted.background]


def test_prompts_say_what_is_wanted() -> None:
    for case in CASES:
        wanted = case.wanted
        assert f"{wanted.colour} {wanted.kind}" in case.prompt
        assert wanted.background == "white" or f"{wanted.background} background" in case.prompt


@pytest.mark.parametrize("style", ["flat", "bold"])
def test_perfect_pictures_score_full_marks(style: Style) -> None:
    report = scored([drawn(case.wanted, style) for case in CASES])
    assert report.totals == {"colour": 1, "background": 1, "kind": 1, "all": 1}
    assert report.misses == []


@pytest.mark.parametrize(
    "shape",
    [
        {"x": 0.15, "y": -0.1},
        {"x": -0.12, "y": 0.15},
        {"radius": 0.45},
        {"radius": 0.75},
    ],
)
def test_shifts_and_sizes_are_tolerated(shape: dict[str, float]) -> None:
    assert scored([drawn(case.wanted, "flat", **shape) for case in CASES]).totals["all"] == 1


def test_blur_and_faint_noise_are_tolerated() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for case in CASES:
        picture = drawn(case.wanted).float()
        soft = torch.nn.functional.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
        soft += 6 * torch.randn(soft.shape, generator=generator)
        pictures.append(soft.clamp(0, 255).to(torch.uint8))
    assert scored(pictures).totals["all"] > 0.97


@pytest.mark.parametrize("aspect", ["colour", "background", "kind"])
def test_one_wrong_aspect_costs_that_aspect_only(aspect: str) -> None:
    names = list(KINDS if aspect == "kind" else PALETTE)
    after = dict(zip(names, rolled(names), strict=True))
    pictures = []
    for case in CASES:
        wrong = after[getattr(case.wanted, aspect)]
        if wrong in (case.wanted.colour, case.wanted.background):
            wrong = after[wrong]
        pictures.append(drawn(dataclasses.replace(case.wanted, **{aspect: wrong})))
    totals = scored(pictures).totals
    assert totals.pop(aspect) == 0
    assert totals.pop("all") == 0
    assert set(totals.values()) == {1}


def test_shape_and_background_colours_swapped_are_both_wrong() -> None:
    swapped = [
        dataclasses.replace(c.wanted, colour=c.wanted.background, background=c.wanted.colour)
        for c in CASES
    ]
    totals = scored([drawn(wanted) for wanted in swapped]).totals
    assert totals == {"colour": 0, "background": 0, "kind": 1, "all": 0}


def test_pictures_of_other_prompts_are_wrong() -> None:
    assert scored(rolled([drawn(case.wanted) for case in CASES])).totals["all"] < 0.02


def test_an_empty_picture_shows_a_background_only() -> None:
    empty = draw(Scene("", "blue", ()))
    assert judge(empty) == Verdict(None, "blue", None)


def test_noise_shows_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = torch.randint(256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        assert judge(noise) == Verdict(None, None, None)


def test_a_shapeless_blot_has_a_colour_and_no_shape() -> None:
    blot = draw(Scene("", "white", ()))
    for left, top in [(6, 6), (40, 10), (20, 48)]:
        blot[:, top : top + 8, left : left + 12] = torch.tensor(PALETTE["red"]).view(3, 1, 1)
    assert judge(blot) == Verdict("red", "white", None)


def test_a_shape_of_many_colours_has_none() -> None:
    picture = draw(Scene("", "white", ()))
    for stripe, colour in enumerate(["red", "green", "blue"]):
        left = 17 + 10 * stripe
        picture[:, 17:47, left : left + 10] = torch.tensor(PALETTE[colour]).view(3, 1, 1)
    assert judge(picture) == Verdict(None, "white", "square")


def test_classes_and_misses_name_what_went_wrong() -> None:
    red, blue = Verdict("red", "white", "circle"), Verdict("blue", "white", "ring")
    asked = [Case("a red circle", 1, red), Case("a blue ring", 2, blue)]
    report = score(asked, [drawn(red), drawn(red)])
    assert report.totals == {"colour": 0.5, "background": 1, "kind": 0.5, "all": 0.5}
    assert report.classes["colour"] == {"red": 1, "blue": 0}
    assert report.classes["kind"] == {"circle": 1, "ring": 0}
    assert report.misses == ["a blue ring: red circle on white"]


def test_a_missing_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score(CASES, [drawn(CASES[0].wanted)])


def test_the_sheet_holds_every_picture(tmp_path: Path) -> None:
    pictures = [drawn(case.wanted) for case in CASES[:14]]
    write_sheet(pictures, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 128, 2 * 128)
