"""The supervisor against workers that say anything, in any order, under any name.

The sockets are real; the process is a double that only records how it was ended, because what is
tested is what the supervisor believes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermetic_daemon import events
from hermetic_daemon.config import WorkerSection
from hermetic_wire import worker as wire
from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import Output, TextToImage
from support import stage as stages
from support.clock import advance
from support.stage import Stage

EPOCH = 7
JOB = "the-job"
SPEC = wire.ModelSpec(name="m", architecture="echo")
BODY = ErrorBody(code="generation_failed", message="raised")


def on_stage(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Stage], Coroutine[Any, Any, None]]
) -> Stage:
    """Run a coroutine function on a stage of its own, with one epoch started."""

    async def begun(stage: Stage) -> None:
        stage.supervisor.ensure_ready(EPOCH, SPEC, "cpu")
        await play(stage)

    return stages.on_stage(monkeypatch, begun)


async def run_job(stage: Stage) -> None:
    """The worker has become ready, as it should, and has been given the job."""
    await stage.say("worker", hello(stage.processes[EPOCH].token))
    await stage.say("worker", READY)
    await stage.hear_out()
    assert stage.events == [events.Ready(EPOCH)]
    stage.supervisor.run(EPOCH, JOB, TextToImage(prompts=("a",)))


def encode(message: wire.FromWorker) -> list[Any]:
    return list(wire.from_worker.encode(message))


def hello(token: str, epoch: int = EPOCH) -> list[Any]:
    return encode(wire.Hello(epoch=epoch, token=token, pid=4242, version="0"))


READY = encode(wire.Ready(epoch=EPOCH, device="cpu", memory={}, timings={}))
LOADING = encode(wire.Loading(epoch=EPOCH, stage="s", fraction=0.5))
ENDS = [
    encode(wire.Done(epoch=EPOCH, job_id=JOB, output=Output())),
    encode(wire.Failed(epoch=EPOCH, job_id=JOB, error=BODY)),
    encode(wire.Cancelled(epoch=EPOCH, job_id=JOB)),
]

epochs = st.sampled_from([EPOCH, EPOCH - 1, EPOCH + 1, 0])
jobs = st.sampled_from([JOB, "another"])
anything = st.one_of(
    st.lists(st.binary(max_size=40), min_size=1, max_size=3),
    st.builds(lambda e: hello("0" * 32, e), epochs),
    st.builds(lambda e: encode(wire.Ready(epoch=e, device="cpu", memory={}, timings={})), epochs),
    st.builds(lambda e: encode(wire.Loading(epoch=e, stage="s", fraction=0.5)), epochs),
    st.builds(lambda e, j: encode(wire.Step(epoch=e, job_id=j, step=1, steps=2)), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Done(epoch=e, job_id=j, output=Output())), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Failed(epoch=e, job_id=j, error=BODY)), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Cancelled(epoch=e, job_id=j)), epochs, jobs),
    st.builds(lambda e: encode(wire.LoadFailed(epoch=e, error=BODY)), epochs),
)


@settings(max_examples=60, deadline=None)
@given(noise=st.lists(st.tuples(st.sampled_from(["worker", "stranger"]), anything), max_size=12))
def test_whatever_is_said_a_run_has_at_most_one_end_and_strangers_have_none(
    noise: list[tuple[str, list[Any]]],
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        for who, frames in noise:
            await stage.say(who, frames)
        await stage.hear_out()

    with pytest.MonkeyPatch.context() as monkeypatch:
        stage = on_stage(monkeypatch, play)
    finished = [event for event in stage.events if isinstance(event, events.Finished)]
    assert len(finished) <= 1
    gone = [event for event in stage.events if isinstance(event, events.Gone)]
    assert [event.epoch for event in gone] == [EPOCH]
    assert all(getattr(event, "epoch", EPOCH) == EPOCH for event in stage.events)
    said_by_worker = [frames for who, frames in noise if who == "worker"]
    if not any(end in said_by_worker for end in ENDS):
        assert not finished, "only the worker itself can end its job"


def test_a_hello_without_the_token_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("stranger", hello("f" * 32))
        await stage.say("stranger", READY)
        await stage.hear_out()
        assert stage.events == []
        await stage.say("worker", hello(stage.processes[EPOCH].token))
        await stage.hear_out()  # two sockets have no order between them
        await stage.say("stranger", hello(stage.processes[EPOCH].token))
        await stage.say("stranger", READY)
        await stage.hear_out()
        assert stage.events == []
        await stage.say("worker", READY)
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]

    on_stage(monkeypatch, play)


def test_a_worker_that_sends_nonsense_is_killed_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("worker", hello(stage.processes[EPOCH].token))
        await stage.say("worker", [b"\xc1"])
        await stage.hear_out()
        assert stage.processes[EPOCH].ends == [None]

    (gone,) = on_stage(monkeypatch, play).events
    assert isinstance(gone, events.Gone)
    assert "no message" in gone.error.message


def test_nothing_counts_that_a_worker_says_after_it_was_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        stage.supervisor.end(EPOCH, politely=False, why="a test")
        await stage.say("worker", ENDS[0])
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]

    on_stage(monkeypatch, play)


def test_a_cancel_that_nobody_asked_for_is_somebody_elses_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        await stage.say("worker", ENDS[2])
        await stage.hear_out()
        assert stage.processes[EPOCH].ends == [None]
        stage.processes[EPOCH].die()
        gone = stage.events[-1]
        assert isinstance(gone, events.Gone)
        assert "SIGTERM" in gone.error.message

    on_stage(monkeypatch, play)


def test_a_lost_device_is_the_workers_end_and_not_the_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        lost = ErrorBody(code="worker_died", message="the device was lost")
        await stage.say("worker", encode(wire.Failed(epoch=EPOCH, job_id=JOB, error=lost)))
        await stage.hear_out()
        stage.processes[EPOCH].die()
        gone = stage.events[-1]
        assert isinstance(gone, events.Gone)
        assert gone.error.message == "the device was lost"

    on_stage(monkeypatch, play)


def test_a_device_lost_while_loading_is_the_workers_end_and_not_the_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("worker", hello(stage.processes[EPOCH].token))
        lost = ErrorBody(code="worker_died", message="the device was lost")
        await stage.say("worker", encode(wire.LoadFailed(epoch=EPOCH, error=lost)))
        await stage.hear_out()
        assert stage.processes[EPOCH].ends == [None]
        stage.processes[EPOCH].die()
        (gone,) = stage.events
        assert isinstance(gone, events.Gone)
        assert gone.error.message == "the device was lost"

    on_stage(monkeypatch, play)


@pytest.mark.parametrize(
    "again", [READY, encode(wire.LoadFailed(epoch=EPOCH, error=BODY)), LOADING]
)
def test_a_load_that_is_told_of_in_the_middle_of_a_job_keeps_no_hang_from_being_found(
    monkeypatch: pytest.MonkeyPatch, again: list[Any]
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        await stage.say("worker", again)
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]
        await advance(WorkerSection().step_seconds)
        assert stage.processes[EPOCH].ends == [None]

    on_stage(monkeypatch, play)


def test_a_worker_that_is_being_killed_takes_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("worker", hello(stage.processes[EPOCH].token))
        await stage.say("worker", READY)
        await stage.say("worker", [b"\xc1"])
        await stage.hear_out()
        stage.supervisor.run(EPOCH, JOB, TextToImage(prompts=("a",)))
        assert stage.rows[EPOCH].state == "ending"

    on_stage(monkeypatch, play)


def test_a_worker_that_sigkill_does_not_end_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that hangs in a driver. It is told of once, and where it stays it is shown."""

    async def play(stage: Stage) -> None:
        config = WorkerSection()
        await run_job(stage)
        stage.supervisor.cancel(EPOCH, JOB)
        await advance(config.cancel_seconds)
        await advance(config.terminate_seconds + config.release_seconds)
        gone = stage.events[-1]
        assert isinstance(gone, events.Gone)
        assert "hangs in the kernel" in gone.error.message
        await advance(100_000)
        assert stage.events[-1] is gone
        assert stage.rows[EPOCH].state == "ending"

    on_stage(monkeypatch, play)


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("second", range(3))
def test_a_second_end_of_a_job_and_the_end_of_another_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    async def play(stage: Stage) -> None:
        await run_job(stage)
        await stage.say("worker", encode(wire.Cancelled(epoch=EPOCH, job_id="another")))
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]
        stage.supervisor.cancel(EPOCH, JOB)  # so that each of them may come
        for end in (first, second):
            await stage.say("worker", ENDS[end])
        await stage.hear_out()
        assert [type(event) for event in stage.events] == [events.Ready, events.Finished]

    on_stage(monkeypatch, play)
