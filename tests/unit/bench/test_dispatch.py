"""The simulator, its bound and its figures, on traces that can be worked out by hand."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import _dispatch_plot
import dispatch
from _arms import BenchError
from _dispatch_figures import fairness, outcome
from _simulator import Device, Turn, dispatched, first_come, least_makespan
from _traces import RULES, TraceJob, read, recorded

DEVICE = Device({"a": 2.0, "b": 3.0}, other_seconds=1.0)


def job(at: float, model: str, seconds: float = 1.0, app: str = "app") -> TraceJob:
    return TraceJob(at, app, model, seconds)


def test_first_come_first_served_switches_whenever_the_model_changes() -> None:
    course = first_come([job(0, "a"), job(0, "b"), job(0, "a")], DEVICE)
    assert [turn.begun for turn in course.turns] == [2.0, 6.0, 9.0]
    assert course.loads == 3
    assert course.makespan == 10.0


def test_with_two_places_a_model_that_comes_back_is_still_there() -> None:
    device = Device(DEVICE.load_seconds, DEVICE.other_seconds, residency=2)
    course = first_come([job(0, "a"), job(0, "b"), job(0, "a")], device)
    assert course.loads == 2
    assert dispatched([job(0, "a"), job(0, "b"), job(0, "a")], device).loads == 2


def test_the_dispatcher_is_driven_as_the_daemon_drives_it() -> None:
    course = dispatched([job(0, "a"), job(0, "b"), job(0, "a"), job(50, "a")], DEVICE)
    assert [(turn.begun, turn.job.model) for turn in course.turns] == [
        (2.0, "a"),
        (3.0, "a"),
        (7.0, "b"),
        (52.0, "a"),
    ]
    assert course.loads == 3
    assert [turn.load for turn in course.turns] == [2.0, 0.0, 3.0, 2.0]


def test_the_bound_of_jobs_that_are_all_there() -> None:
    assert least_makespan([job(0, "a"), job(0, "b"), job(0, "a")], DEVICE) == 8.0


def test_the_bound_of_one_that_comes_last_does_not_count_a_load_made_before() -> None:
    assert least_makespan([job(0, "a"), job(100, "b")], DEVICE) == 101.0
    assert least_makespan([job(0, "a"), job(100, "b"), job(100, "a")], DEVICE) == 104.0


JOBS = st.lists(
    st.builds(
        job,
        at=st.sampled_from([0.0, 0.0, 1.0, 4.0, 20.0]),
        model=st.sampled_from("abc"),
        seconds=st.sampled_from([0.5, 1.0, 4.0]),
        app=st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=5,
).map(lambda jobs: sorted(jobs, key=lambda one: one.at))


@given(jobs=JOBS)
@settings(max_examples=50)
def test_no_order_of_the_jobs_is_done_before_the_bound(jobs: list[TraceJob]) -> None:
    """Not even one that knows what comes and has its model ready for it."""
    bound = least_makespan(jobs, DEVICE)
    for order in itertools.permutations(jobs):
        clock, loaded = jobs[0].at, ""
        for one in order:
            if one.model != loaded:
                clock, loaded = clock + DEVICE.load(one.model), one.model
            clock = max(clock, one.at) + one.seconds
        assert clock - jobs[0].at >= bound - 1e-9
    assert dispatched(jobs, DEVICE).makespan >= bound - 1e-9


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_trace_goes_through_and_is_the_same_for_the_same_seed(name: str) -> None:
    jobs = sorted(RULES[name](60, Random(3)), key=lambda one: one.at)
    again = sorted(RULES[name](60, Random(3)), key=lambda one: one.at)
    assert jobs == again
    for device in dispatch.DEVICES.values():
        assert sorted(map(id, jobs)) == sorted(
            id(turn.job) for turn in dispatched(jobs, device).turns
        )


def test_the_single_job_of_the_flood_waits_for_no_more_than_the_bound() -> None:
    """Four jobs of at most four seconds while nothing is measured, one that runs, its load."""
    jobs = list(RULES["flood"](1000, Random(1)))
    for device in dispatch.DEVICES.values():
        single = outcome(dispatched(jobs, device)).smallest_app_wait
        assert single <= 4 * 4.0 + 4.0 + device.load("sdxl")
        assert outcome(first_come(jobs, device)).smallest_app_wait > 100 * single


def test_fairness_of_two_that_share_is_one_and_of_one_that_takes_all_a_half() -> None:
    halves = [Turn(job(0, "a", 1.0, "xy"[n % 2]), float(n)) for n in range(10)]
    assert fairness(halves) == pytest.approx(1.0, abs=0.02)
    first = [Turn(job(0, "a", 100.0, "x"), 0.0), Turn(job(0, "a", 1.0, "y"), 100.0)]
    assert fairness(first) == pytest.approx(0.5)
    assert fairness(first[:1]) == 1.0, "nobody else wanted it"


def test_a_load_is_time_that_its_app_had() -> None:
    turns = [Turn(job(0, "a", 1.0, "x"), 9.0, load=9.0), Turn(job(0, "a", 10.0, "y"), 10.0)]
    assert fairness(turns) == pytest.approx((2.0 + 0.0) ** 2 / (2 * 4.0))


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"at": 0}',
        '{"at": -1, "app": "x", "model": "a", "seconds": 1}',
        '{"at": 0, "app": "x", "model": "a", "seconds": 1, "priority": "urgent"}',
    ],
)
def test_a_line_that_is_no_job_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0, "app": "x", "model": "a", "seconds": 1}\n' + line + "\n")
    with pytest.raises(BenchError, match="line 2"):
        read(file)


def test_an_empty_trace_is_told(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("")
    with pytest.raises(BenchError, match="no jobs"):
        read(file)


def test_the_recorded_traces_can_be_read() -> None:
    assert recorded()
    assert all(read(file) for file in recorded())


def test_the_report_has_the_names_that_are_compared_over_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dispatch", "--json", "--jobs", "30", "--seed", "2"])
    dispatch.main()
    told = json.loads(capsys.readouterr().out)
    assert told["bench"] == "dispatch"
    assert told["machine"]["settings"] == {"jobs": 30, "seed": 2}
    assert {"makespan/oracle", "makespan/fifo"} <= told["ratios"].keys()
    assert "worst_wait_s" in told["figures"]
    assert all(
        ratio >= 1 for name, ratio in told["ratios"].items() if name.endswith("makespan/oracle")
    )


def test_people_get_a_table_of_the_traces_they_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"at": 0, "app": "x", "model": "a", "seconds": 1}\n')
    monkeypatch.setattr(sys, "argv", ["dispatch", "--trace", str(file)])
    dispatch.main()
    told = capsys.readouterr().out
    assert "mine,fork" in told
    assert "flood" not in told


def test_a_file_that_is_not_there_ends_it_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dispatch", "--trace", "/not/there.jsonl"])
    with pytest.raises(SystemExit, match="dispatch: "):
        dispatch.main()


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "dispatch.png"
    panel = {"makespan over the oracle's": (1.0, 2.0), "mean wait, seconds": (0.0, 30.0)}
    _dispatch_plot.plot({"flood,fork": panel, "flood,exec": panel}, file)
    assert file.read_bytes().startswith(b"\x89PNG")
