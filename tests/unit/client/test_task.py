"""Arguments of `generate` as a task."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic import InvalidParameter
from hermetic._task import MAX_IMAGES, checked_job_id, text_to_image


def test_one_prompt() -> None:
    task = text_to_image("a")
    assert (task.prompts, task.negative_prompts, task.seeds, task.extra) == (("a",), (), (), {})
    assert (task.width, task.height, task.steps, task.guidance) == (None,) * 4


def test_everything() -> None:
    task = text_to_image(
        ["a", "b"],
        negative_prompt="c",
        width=64,
        height=32,
        steps=3,
        guidance=2,
        seed=10,
        n=2,
        extra={"clip_skip": 1, "eta": None},
    )
    assert task.seeds == (10, 11, 12, 13)
    assert task.extra == {"clip_skip": 1}
    assert task.count == 4


@given(st.integers(0, 2**64 - 9), st.integers(1, 4), st.integers(1, 2))
def test_a_number_is_the_first_of_one_seed_per_image(seed: int, prompts: int, n: int) -> None:
    task = text_to_image(["a"] * prompts, seed=seed, n=n)
    assert task.seeds == tuple(seed + index for index in range(prompts * n))
    assert text_to_image(["a"] * prompts, seed=task.seeds, n=n) == task


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative_prompt"),
        ({"width": 0}, "width"),
        ({"height": 1.5}, "height"),
        ({"steps": True}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": "much"}, "guidance"),
        ({"n": 0}, "n is"),
        ({"n": MAX_IMAGES + 1}, "images"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64 - 1, "n": 2}, "2\\*\\*64"),
        ({"seed": [1], "n": 2}, "seed"),
        ({"seed": "5"}, "seed"),
        ({"extra": {"cross_attention": object()}}, "cross_attention"),
    ],
)
def test_what_cannot_be_right(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidParameter, match=word):
        text_to_image(**{"prompt": "a", **arguments})


@pytest.mark.parametrize("job_id", ["", "a b", "x" * 65, "ä", "a\n"])
def test_job_ids_of_the_wrong_form(job_id: str) -> None:
    with pytest.raises(InvalidParameter, match="job_id"):
        checked_job_id(job_id)


def test_new_job_ids() -> None:
    assert checked_job_id("mine_1-x") == "mine_1-x"
    assert len({checked_job_id(None) for _ in range(9)}) == 9
    assert len(checked_job_id(None)) == 32
