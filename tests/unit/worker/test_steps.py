"""Which steps of a job the daemon hears of: by a clock of its own, whatever the steps take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermetic_wire.codec import Frame
from hermetic_wire.generation import Image, TextToImage
from hermetic_wire.worker import FromWorker, Run, Step, ToWorker
from hermetic_worker.steps import PACE_SECONDS, Steps

TICK = 2.0**-10
"""Seconds: about a millisecond, and no sum of them is rounded."""
PACE = math.ceil(PACE_SECONDS / TICK)
TICKS = st.lists(st.integers(0, 3 * PACE), min_size=1, max_size=40)


@dataclass
class Telling:
    """A link that notes what is said, and the clock by which it is said, in ticks."""

    now: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)
    """Moment and step."""
    shown: list[int] = field(default_factory=list)
    """Steps with a picture."""

    def send(self, message: FromWorker, raw: Sequence[Frame] = ()) -> None:
        assert isinstance(message, Step)
        self.told.append((self.now, message.step))
        assert len(raw) == (message.preview is not None)
        if message.preview is not None:
            self.shown.append(message.step)

    def receive(self) -> ToWorker | None:
        raise AssertionError("nobody asks")

    def poll(self) -> ToWorker | None:
        raise AssertionError("nobody asks")


def tell(ticks: Sequence[int], preview_seconds: float | None = None) -> Telling:
    """A job whose steps take so long."""
    task = TextToImage(prompts=("x",), seeds=(1,))
    link, run = Telling(), Run(job_id="a", task=task, preview_seconds=preview_seconds)
    steps = Steps(link, 1, run, clock=lambda: link.now * TICK)
    for step, duration in enumerate(ticks, 1):
        link.now += duration
        steps.tell(step, len(ticks), None, lambda: (Image(width=1, height=1), bytes(3)))
    return link


@given(TICKS)
@example([PACE])
@example([PACE - 1])
@example([PACE - 2, 1, 1])
@example([PACE, 0, 0])
def test_no_more_is_told_than_anybody_has_use_for(ticks: Sequence[int]) -> None:
    link, last = tell(ticks), len(ticks)
    steps = [step for _, step in link.told]
    assert steps == sorted(set(steps))
    moments = [0, *(moment for moment, step in link.told if step < last)]
    assert all(later - earlier >= PACE for earlier, later in itertools.pairwise(moments))
    assert (last in steps) is (sum(ticks) >= PACE)


@given(TICKS)
def test_who_follows_slow_steps_misses_none(ticks: Sequence[int]) -> None:
    told = tell([PACE + tick for tick in ticks]).told
    assert [step for _, step in told] == list(range(1, len(ticks) + 1))


@given(TICKS)
def test_a_step_with_a_picture_is_always_told(ticks: Sequence[int]) -> None:
    told = tell(ticks, preview_seconds=0.0).told
    assert [step for _, step in told] == list(range(1, len(ticks) + 1))


@pytest.mark.parametrize(
    ("pace", "shown"), [(None, []), (0.0, [1, 2, 3, 4, 5]), (7.0, [1, 3, 5]), (60.0, [1])]
)
def test_a_picture_is_drawn_no_more_often_than_it_was_asked_for(
    pace: float | None, shown: list[int]
) -> None:
    assert tell([4096] * 5, pace).shown == shown
