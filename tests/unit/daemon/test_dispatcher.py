"""The dispatcher as a state machine: whatever happens in whatever order, no job is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import (
    Answer,
    CancelAsked,
    CancelRun,
    Effect,
    EndAsked,
    EndWorker,
    Event,
    Exit,
    Finished,
    Gone,
    LoadFailed,
    Ready,
    Run,
    Settle,
    StartWorker,
    Submitted,
    UnloadAsked,
)
from hermetic_wire.errors import (
    GenerationFailed,
    JobCancelled,
    WorkerDied,
)
from hermetic_wire.errors import (
    LoadFailed as LoadFailedError,
)

CRASH = WorkerDied("it ended")
MODELS = st.sampled_from(["sd15", "sdxl", "echo"])


class World:
    """What the effects did: the processes and jobs as the rest of the daemon would have them."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.workers: dict[int, str] = {}
        self.told_to_end: set[int] = set()
        self.ready: set[int] = set()
        self.running: dict[int, str] = {}
        self.submitted: dict[str, str] = {}
        self.ended: dict[str, object] = {}
        self.cancel_asked: set[str] = set()
        self.tickets: set[int] = set()
        self.exited = False
        self.switches: list[str] = []

    def send(self, event: Event) -> list[Effect]:
        effects = self.dispatcher.handle(event)
        for effect in effects:
            self._perform(effect)
        return effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartWorker(epoch, model, job_id):
                assert not self.workers, "one worker per device"
                assert self.submitted[job_id] == model
                self.workers[epoch] = model
                self.switches.append(model)
            case Run(epoch, job_id):
                assert epoch in self.ready - self.told_to_end
                assert epoch not in self.running, "one job at a time"
                assert self.workers[epoch] == self.submitted[job_id], "never crossed"
                assert job_id not in self.ended
                self.running[epoch] = job_id
            case CancelRun(epoch, job_id):
                assert self.running[epoch] == job_id
                assert job_id in self.cancel_asked
            case EndWorker(epoch):
                assert epoch in self.workers
                self.told_to_end.add(epoch)
            case Settle(job_id, error):
                assert job_id in self.submitted
                assert job_id not in self.ended, "exactly one end"
                self.ended[job_id] = error
            case Answer(ticket):
                self.tickets.remove(ticket)
            case Exit():
                assert not self.workers
                assert set(self.submitted) == set(self.ended)
                self.exited = True

    def lose_worker(self, epoch: int) -> None:
        del self.workers[epoch]
        self.running.pop(epoch, None)
        self.ready.discard(epoch)
        self.send(Gone(epoch, CRASH))


class DispatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @precondition(lambda self: not self.world.exited)
    @rule(model=MODELS)
    def submit(self, model: str) -> None:
        job_id = f"job-{len(self.world.submitted)}"
        self.world.submitted[job_id] = model
        self.world.send(Submitted(job_id, model))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from([*self.world.submitted, "never-seen"]))
        self.world.cancel_asked.add(job_id)
        waiting = job_id in self.world.dispatcher.waiting
        self.world.send(CancelAsked(job_id))
        if waiting:
            assert isinstance(self.world.ended[job_id], JobCancelled)

    @rule(model=MODELS)
    def unload(self, model: str) -> None:
        ticket = len(self.world.submitted) * 1000 + len(self.world.tickets)
        self.world.tickets.add(ticket)
        self.world.send(UnloadAsked(model, ticket))

    @precondition(lambda self: self.world.workers.keys() - self.world.ready)
    @rule(fails=st.booleans())
    def load_ends(self, fails: bool) -> None:
        (epoch,) = self.world.workers
        if epoch in self.world.told_to_end:
            return
        if fails:
            model = self.world.workers[epoch]
            self.world.send(LoadFailed(epoch, LoadFailedError("no")))
            waiting = self.world.dispatcher.waiting
            assert all(self.world.submitted[job_id] != model for job_id in waiting)
        else:
            self.world.ready.add(epoch)
            self.world.send(Ready(epoch))

    @precondition(lambda self: self.world.running)
    @rule(error=st.sampled_from([None, GenerationFailed("raised"), JobCancelled("yes")]))
    def job_ends(self, error: GenerationFailed | JobCancelled | None) -> None:
        ((epoch, job_id),) = self.world.running.items()
        del self.world.running[epoch]
        reusable = not isinstance(error, GenerationFailed)
        self.world.send(Finished(epoch, job_id, error, reusable))
        assert job_id in self.world.ended
        if not reusable:
            assert epoch in self.world.told_to_end

    @precondition(lambda self: self.world.workers)
    @rule()
    def worker_dies(self) -> None:
        (epoch,) = self.world.workers
        job_id = self.world.running.get(epoch)
        self.world.lose_worker(epoch)
        if job_id is not None:
            assert self.world.ended[job_id] is not None

    @rule(age=st.integers(1, 3), model=MODELS)
    def an_older_epoch_speaks(self, age: int, model: str) -> None:
        epoch = self.world.dispatcher.epoch - age
        for event in (
            Ready(epoch),
            LoadFailed(epoch, LoadFailedError("stale")),
            Finished(epoch, "job-0", None, reusable=True),
            Gone(epoch, CRASH),
        ):
            assert self.world.send(event) == []

    @rule(mode=st.sampled_from(["drain", "stop", "kill"]))
    def end(self, mode: str) -> None:
        self.world.send(EndAsked(mode))  # type: ignore[arg-type]  # drawn from the three
        if mode != "drain":
            assert set(self.world.submitted) == set(self.world.ended)

    @invariant()
    def every_job_waits_runs_or_has_ended(self) -> None:
        waiting = self.world.dispatcher.waiting
        assert len(set(waiting)) == len(waiting)
        known = set(waiting) | set(self.world.running.values()) | set(self.world.ended)
        assert known == set(self.world.submitted)
        assert not set(waiting) & set(self.world.ended)

    @invariant()
    def somebody_works_while_somebody_waits(self) -> None:
        """Nothing ever stands still: a waiting job implies a worker that will report."""
        if self.world.dispatcher.waiting:
            assert self.world.workers

    def teardown(self) -> None:
        """From any state, letting things take their course ends every job and answers everyone."""
        self.world.send(EndAsked("drain"))
        for _ in range(4 * len(self.world.submitted) + 4):
            if self.world.exited:
                break
            (epoch,) = self.world.workers
            if epoch in self.world.told_to_end:
                self.world.lose_worker(epoch)
            elif epoch in self.world.running:
                self.job_ends(None)
            else:
                self.load_ends(fails=False)
        assert self.world.exited
        assert not self.world.tickets


DispatcherMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestDispatcher = DispatcherMachine.TestCase


@pytest.fixture
def world() -> World:
    return World()


def submit(world: World, *models: str) -> None:
    for model in models:
        job_id = f"job-{len(world.submitted)}"
        world.submitted[job_id] = model
        world.send(Submitted(job_id, model))


def make_ready(world: World) -> int:
    (epoch,) = world.workers
    world.ready.add(epoch)
    world.send(Ready(epoch))
    return epoch


def finish(world: World) -> None:
    ((epoch, job_id),) = world.running.items()
    del world.running[epoch]
    world.send(Finished(epoch, job_id, None, reusable=True))


def test_jobs_run_in_order_of_arrival(world: World) -> None:
    submit(world, "sd15", "sdxl", "sd15")
    order: list[str] = []
    for _ in range(3):
        make_ready(world)
        order.extend(world.running.values())
        finish(world)
        if world.told_to_end >= world.workers.keys():
            world.lose_worker(next(iter(world.workers)))
    assert order == ["job-0", "job-1", "job-2"]
    assert world.switches == ["sd15", "sdxl", "sd15"]


def test_ten_jobs_for_one_model_start_one_worker(world: World) -> None:
    submit(world, *["sd15"] * 10)
    make_ready(world)
    for _ in range(10):
        finish(world)
    assert world.switches == ["sd15"]
    assert len(world.ended) == 10


def test_a_worker_stays_loaded_when_nothing_waits(world: World) -> None:
    submit(world, "sd15")
    epoch = make_ready(world)
    finish(world)
    assert world.workers == {epoch: "sd15"}
    assert not world.told_to_end


def test_a_load_killed_under_three_jobs_costs_one_of_them(world: World) -> None:
    submit(world, "sd15", "sd15", "sd15")
    world.lose_worker(1)
    assert world.ended == {"job-0": CRASH}
    assert world.workers == {2: "sd15"}


def test_a_load_nobody_wants_any_more_is_ended(world: World) -> None:
    submit(world, "sd15", "sdxl")
    world.cancel_asked.add("job-0")
    world.send(CancelAsked("job-0"))
    assert world.told_to_end == {1}
    world.lose_worker(1)
    assert world.workers == {2: "sdxl"}
    assert "job-1" not in world.ended


def test_a_job_whose_cancel_ended_the_worker_is_cancelled_not_failed(world: World) -> None:
    submit(world, "sd15")
    epoch = make_ready(world)
    world.cancel_asked.add("job-0")
    world.send(CancelAsked("job-0"))
    world.lose_worker(epoch)
    assert isinstance(world.ended["job-0"], JobCancelled)


def test_unload_ends_an_idle_worker_and_answers_when_it_is_gone(world: World) -> None:
    submit(world, "sd15")
    epoch = make_ready(world)
    finish(world)
    world.tickets.add(7)
    world.send(UnloadAsked("sd15", 7))
    assert world.told_to_end == {epoch}
    assert world.tickets == {7}
    world.lose_worker(epoch)
    assert not world.tickets


def test_unload_of_what_is_not_loaded_is_answered_at_once(world: World) -> None:
    world.tickets.add(7)
    assert world.send(UnloadAsked("sd15", 7)) == [Answer(7, found=False)]
