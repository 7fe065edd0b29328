"""The order of a worker's messages, whatever its pipeline and its daemon do."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic_wire.codec import MAX_RAW_BYTES, Frame
from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Image, Load, Output, TextToImage
from hermetic_wire.worker import (
    Assign,
    Cancel,
    Cancelled,
    Done,
    Failed,
    FromWorker,
    Hello,
    LoadFailed,
    Loading,
    ModelSpec,
    Quit,
    Ready,
    Run,
    Step,
    ToWorker,
    from_worker,
)
from hermetic_worker import steps as steps_of_jobs
from hermetic_worker.channel import ProtocolBroken
from hermetic_worker.loop import End, Worker
from hermetic_worker.outlines import Outlines
from hermetic_worker.pipelines.base import OUTLINED, Footprint, OnProgress, OnStep, Result
from hermetic_worker.standby import Standby
from hermetic_worker.stopping import StopRequest

ASSIGN = Assign(model=ModelSpec(name="m", architecture="fake"), device="cpu")
TASK = TextToImage(prompts=("x",), seeds=(1,))
TERMINAL = (Done, Failed, Cancelled)


@pytest.fixture(autouse=True, scope="module")
def every_step_is_told() -> Iterator[None]:
    """However quick it was: these pipelines take no time at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps_of_jobs, "PACE_SECONDS", 0.0)
        yield


@dataclass
class FakePipeline:
    """Raises `error` at point `at`: 0 is before the first step, n after the nth."""

    steps: int = 2
    at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("broken"))
    frames: Sequence[Frame] = ()

    def outline(self, spec: ModelSpec, device: str) -> str:
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        on_progress("only", 0.0)
        return Footprint()

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        self._maybe_raise(0)
        for step in range(1, self.steps + 1):
            on_step(step, self.steps)
            self._maybe_raise(step)
        return Result(Output(), self.frames)

    def _maybe_raise(self, point: int) -> None:
        if point == self.at:
            raise self.error


@dataclass
class FailingLoad(FakePipeline):
    """Never becomes ready."""

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        raise self.error


@dataclass
class Showing(FakePipeline):
    """Offers a picture with every step; `drawn` holds the steps at which it was wanted."""

    drawn: list[int] = field(default_factory=list)

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        for step in range(1, self.steps + 1):
            on_step(step, self.steps, None, functools.partial(self._show, step))
        return Result(Output(), ())

    def _show(self, step: int) -> tuple[Image, Frame]:
        self.drawn.append(step)
        return Image(width=1, height=1), bytes([step] * 3)


@dataclass
class ScriptedLink:
    """A daemon in one list. `polled` holds what arrives at the nth poll, the first being 0."""

    script: list[ToWorker]
    polled: dict[int, ToWorker | BaseException] = field(default_factory=dict)
    sent: list[FromWorker] = field(default_factory=list)
    raw: list[Sequence[Frame]] = field(default_factory=list)
    polls: int = 0

    def send(self, message: FromWorker, raw: Sequence[Frame] = ()) -> None:
        from_worker.encode(message, raw)  # it must fit the wire
        self.sent.append(message)
        self.raw.append(raw)

    def receive(self) -> ToWorker | None:
        return self.script.pop(0) if self.script else Quit()

    def poll(self) -> ToWorker | None:
        arrived = self.polled.pop(self.polls, None)
        if arrived is None:
            self.polls += 1
        if isinstance(arrived, BaseException):
            raise arrived
        return arrived


def live(link: ScriptedLink, pipeline: FakePipeline) -> End:
    stop = StopRequest()
    try:
        return Worker(link, 3, stop, Outlines({"fake": lambda: pipeline})).live("token", 0.0)
    finally:
        stop.close()


def test_a_life_in_order() -> None:
    link = ScriptedLink([ASSIGN, Run(job_id="a", task=TASK), Run(job_id="b", task=Load())])
    assert live(link, FakePipeline()) is End.IN_ORDER
    kinds = [type(message) for message in link.sent]
    assert kinds == [Hello, Loading, Ready, Step, Step, Done, Done]
    assert {message.epoch for message in link.sent} == {3}


def test_every_job_shows_its_first_step() -> None:
    runs: list[ToWorker] = [Run(job_id=name, task=TASK, preview_seconds=3600) for name in "ab"]
    pipeline = Showing(steps=2)
    assert live(ScriptedLink([ASSIGN, *runs]), pipeline) is End.IN_ORDER
    assert pipeline.drawn == [1, 1]


RAISED = st.sampled_from(
    [
        RuntimeError("broken"),
        InvalidParameter("no"),
        MemoryError(),
        SystemExit(0),
        KeyboardInterrupt(),
        ProtocolBroken("from nowhere"),
    ]
)


@given(
    steps=st.integers(0, 4),
    at=st.none() | st.integers(0, 5),
    error=RAISED,
    arriving=st.none() | st.sampled_from([Cancel(job_id="a"), Quit(), Load, ASSIGN]),
    when=st.integers(0, 5),
)
def test_exactly_one_terminal_message_per_job(
    steps: int,
    at: int | None,
    error: BaseException,
    arriving: ToWorker | type[Load] | None,
    when: int,
) -> None:
    polled: dict[int, ToWorker | BaseException] = {}
    if isinstance(arriving, Cancel | Quit | Assign):
        polled[when + 1] = arriving  # poll 0 belongs to the load
    link = ScriptedLink([ASSIGN, Run(job_id="a", task=TASK)], polled)
    end = live(link, FakePipeline(steps=steps, at=at, error=error))
    ends = [message for message in link.sent if isinstance(message, TERMINAL)]
    assert [message.job_id for message in ends] == ["a"]
    assert link.sent[-1] is ends[0]
    told = [message.step for message in link.sent if isinstance(message, Step)]
    assert told == list(range(1, len(told) + 1))
    failed = isinstance(ends[0], Failed)
    assert (end in {End.JOB_FAILED, End.PROTOCOL}) is failed


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_cancel_at_any_step_leaves_the_next_job_alone(when: int) -> None:
    runs: list[ToWorker] = [Run(job_id="a", task=TASK), Run(job_id="b", task=TASK)]
    link = ScriptedLink([ASSIGN, *runs], {when: Cancel(job_id="a")})
    assert live(link, FakePipeline(steps=3)) is End.IN_ORDER
    ends = [message for message in link.sent if isinstance(message, TERMINAL)]
    assert [type(message) for message in ends] == [Cancelled, Done]
    assert sum(isinstance(message, Step) for message in link.sent) == when + 3


def test_a_cancel_that_crosses_the_end_is_dropped() -> None:
    script: list[ToWorker] = [ASSIGN, Run(job_id="a", task=TASK), Cancel(job_id="a")]
    link = ScriptedLink([*script, Run(job_id="b", task=TASK)])
    assert live(link, FakePipeline()) is End.IN_ORDER
    assert sum(isinstance(message, Done) for message in link.sent) == 2


def test_quit_in_a_job_cancels_it() -> None:
    link = ScriptedLink([ASSIGN, Run(job_id="a", task=TASK)], {1: Quit()})
    assert live(link, FakePipeline()) is End.IN_ORDER
    assert isinstance(link.sent[-1], Cancelled)


@pytest.mark.parametrize(
    "script",
    [
        [Run(job_id="a", task=TASK)],
        [ASSIGN, ASSIGN],
        [ASSIGN, Cancel(job_id="unknown")],
    ],
)
def test_what_may_not_come_then_ends_the_worker(script: list[ToWorker]) -> None:
    assert live(ScriptedLink(script), FakePipeline()) is End.PROTOCOL


def test_what_may_not_come_in_a_job_still_ends_the_job() -> None:
    polled: dict[int, ToWorker | BaseException] = {1: ProtocolBroken("no msgpack")}
    link = ScriptedLink([ASSIGN, Run(job_id="a", task=TASK)], polled)
    assert live(link, FakePipeline()) is End.PROTOCOL
    failed = link.sent[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "malformed_message"


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(0)])
def test_a_load_that_raises_is_told(error: BaseException) -> None:
    link = ScriptedLink([ASSIGN])
    assert live(link, FailingLoad(error=error)) is End.LOAD_FAILED
    failed = link.sent[-1]
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == "load_failed"
    assert failed.error.report is not None


def test_quit_in_the_load_ends_in_order() -> None:
    link = ScriptedLink([ASSIGN], {0: Quit()})
    assert live(link, FakePipeline()) is End.IN_ORDER
    assert [type(message) for message in link.sent] == [Hello, Loading]


def test_an_unknown_architecture_is_refused() -> None:
    link = ScriptedLink([Assign(model=ModelSpec(name="m", architecture="v1"), device="cpu")])
    assert live(link, FakePipeline()) is End.LOAD_FAILED
    failed = link.sent[-1]
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == "model_invalid"
    assert "this worker serves fake" in failed.error.message


def test_a_result_too_large_for_the_wire_fails_its_job() -> None:
    link = ScriptedLink([ASSIGN, Run(job_id="a", task=TASK)])
    whole = memoryview(bytearray(1 << 20))
    pipeline = FakePipeline(frames=[whole] * (MAX_RAW_BYTES // len(whole) + 1))
    assert live(link, pipeline) is End.JOB_FAILED
    failed = link.sent[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "message_too_large"


def test_a_stop_request_ends_the_job_and_the_worker() -> None:
    stop = StopRequest()
    stop.request()
    link = ScriptedLink([ASSIGN])
    try:
        worker = Worker(link, 3, stop, Outlines({"fake": FakePipeline}))
        assert worker.live("t", 0.0) is End.TERMINATED
    finally:
        stop.close()
