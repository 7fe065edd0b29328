"""Who is measured when, what it is called, and what is compared with what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _plan
from hermetic.cli.bench.figures import Figure, Samples

PAIR = ("sd15", "sdxl")
BACK = ("sdxl", "sd15")


def measured(**medians: float) -> dict[str, Figure]:
    """Figures of whole switches, each from three samples of which the median is given."""
    samples = Samples()
    for arm, seconds in medians.items():
        for origin, target in (PAIR, BACK):
            for each in (0.0, seconds, 9 * seconds):
                samples.add(_plan.total_name(origin, target, arm), "s", each)
    return samples.figures()


def test_arms_come_in_one_order_however_they_are_named() -> None:
    assert _plan.chosen("fork, in_process_naive") == ("in_process_naive", "fork")


def test_an_arm_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="fokr") as caught:
        _plan.chosen("fork,fokr")
    assert all(name in str(caught.value) for name in _plan.ARMS)


@pytest.mark.parametrize("text", ["", ",", " "])
def test_no_arm_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none"):
        _plan.chosen(text)


@given(st.integers(1, 9), st.integers(-3, 9))
def test_every_arm_is_once_in_every_place(count: int, start: int) -> None:
    arms = list("abcdefghi"[:count])
    orders = [_plan.order(arms, turn) for turn in range(start, start + count)]
    for places in zip(*orders, strict=True):
        assert sorted(places) == arms


def test_a_turn_ends_where_it_began() -> None:
    assert _plan.directions(["sd15", "sdxl"]) == [("sd15", "sdxl"), ("sdxl", "sd15")]
    assert _plan.directions(["a", "b", "c"])[-1] == ("c", "a")


def test_ratios_have_the_names_that_are_compared_over_time() -> None:
    figures = measured(
        in_process_naive=4.0, in_process_tuned=0.5, new_interpreter=8.0, fork=1.0, hermetic_exec=6.0
    )
    arms = ["in_process_naive", "in_process_tuned", "new_interpreter", "fork", "hermetic_exec"]
    ratios = _plan.ratios(figures, arms, _plan.directions(PAIR))
    assert ratios["sd15->sdxl:fork/in_process_naive"] == 0.25
    assert ratios["sd15->sdxl:fork/in_process_tuned"] == 2.0
    assert ratios["sdxl->sd15:fork/new_interpreter"] == 0.125
    assert ratios["sdxl->sd15:exec/in_process_naive"] == 1.5
    assert len(ratios) == 2 * 2 * 3


def test_an_arm_that_was_not_measured_is_in_no_ratio() -> None:
    ratios = _plan.ratios(measured(fork=1.0), ["fork"], [PAIR])
    assert ratios == {}


def test_stages_add_up_to_the_whole_and_sums_are_not_counted_again() -> None:
    samples = Samples()
    samples.add(_plan.total_name(*PAIR, "fork"), "s", 1.0)
    stages = {"hello": 0.25, "fork": 0.5, "switch": 0.9, "ready": 0.8, "reap": 0.3}
    for stage, seconds in stages.items():
        samples.add(_plan.stage_name(*PAIR, "fork", stage), "s", seconds)
    bar = _plan.stacked(samples.figures(), PAIR, "fork")
    assert list(bar) == ["fork", "hello", "other"], "in the order of time, without what ran beside"
    assert sum(bar.values()) == pytest.approx(1.0)


def test_the_end_of_the_former_counts_where_the_next_waits_for_it() -> None:
    samples = Samples()
    samples.add(_plan.total_name(*PAIR, "new_interpreter"), "s", 1.0)
    samples.add(_plan.stage_name(*PAIR, "new_interpreter", "reap"), "s", 0.3)
    assert _plan.stacked(samples.figures(), PAIR, "new_interpreter")["reap"] == 0.3


def test_stages_of_another_arm_or_direction_are_not_mixed_in() -> None:
    samples = Samples()
    samples.add(_plan.total_name(*PAIR, "fork"), "s", 1.0)
    samples.add(_plan.stage_name(*PAIR, "standby", "read"), "s", 0.3)
    samples.add(_plan.stage_name(*BACK, "fork", "read"), "s", 0.3)
    assert _plan.stacked(samples.figures(), PAIR, "fork") == {"other": 1.0}
