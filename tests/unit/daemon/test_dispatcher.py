"""The dispatcher as a state machine: whatever happens in whatever order, no job is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import (
    Answer,
    Begun,
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
    StartStandby,
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

    def __init__(self, standbys: bool = False) -> None:
        self.dispatcher = Dispatcher(standbys)
        self.workers: dict[int, str] = {}
        """By epoch, without the standby."""
        self.standbys: set[int] = set()
        self.told_to_end: set[int] = set()
        self.ready: set[int] = set()
        self.running: dict[int, str] = {}
        self.submitted: dict[str, str] = {}
        self.ended: dict[str, object] = {}
        self.cancel_asked: set[str] = set()
        self.tickets: set[int | None] = set()
        self.exited = False
        self.switches: list[str] = []

    def send(self, event: Event) -> list[Effect]:
        effects = self.dispatcher.handle(event)
        for effect in effects:
            self._perform(effect)
        assert len(self.holders()) <= 1, "whoever is not told to end has the device for itself"
        assert len(self.standbys - self.told_to_end) <= 1
        return effects

    def holders(self) -> set[int]:
        """Workers that have a model and are to keep it."""
        return self.workers.keys() - self.told_to_end

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartWorker(epoch, model, job_id, replaces):
                assert self.holders() == ({replaces} if replaces else set()), "it replaces all"
                assert self.submitted[job_id] == model
                spare = self.standbys - self.told_to_end
                assert epoch in spare or not spare, "the standby is taken first"
                self.standbys.discard(epoch)
                self.workers[epoch] = model
                self.switches.append(model)
            case StartStandby(epoch):
                assert not self.standbys - self.told_to_end, "one is enough"
                assert not self.running, "the device is quiet"
                assert not self.dispatcher.waiting
                self.standbys.add(epoch)
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
                assert epoch in self.workers or epoch in self.standbys
                self.told_to_end.add(epoch)
            case Settle(job_id, error):
                assert job_id in self.submitted
                assert job_id not in self.ended, "exactly one end"
                self.ended[job_id] = error
            case Answer(ticket):
                self.tickets.remove(ticket)
            case Exit():
                assert not self.workers
                assert not self.standbys
                assert set(self.submitted) == set(self.ended)
                self.exited = True

    def lose_worker(self, epoch: int) -> None:
        self.workers.pop(epoch, None)
        self.standbys.discard(epoch)
        self.running.pop(epoch, None)
        self.ready.discard(epoch)
        self.send(Gone(epoch, CRASH))


class DispatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(standbys=st.booleans())
    def begin(self, standbys: bool) -> None:
        self.world = World(standbys)
        self.world.send(Begun())
        assert bool(self.world.standbys) == standbys

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

    @precondition(lambda self: self.world.holders() - self.world.ready)
    @rule(fails=st.booleans())
    def load_ends(self, fails: bool) -> None:
        (epoch,) = self.world.holders()
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

    @precondition(lambda self: self.world.workers.keys() | self.world.standbys)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(sorted(self.world.workers.keys() | self.world.standbys)))
        job_id = self.world.running.get(epoch)
        self.world.lose_worker(epoch)
        if job_id is not None:
            assert self.world.ended[job_id] is not None

    @rule(age=st.integers(1, 3), model=MODELS)
    def an_older_epoch_speaks(self, age: int, model: str) -> None:
        epoch = self.world.dispatcher.epoch - age
        if epoch in self.world.workers or epoch in self.world.standbys:
            return  # it may still say that it is gone
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
        for _ in range(4 * len(self.world.submitted) + 8):
            if self.world.exited:
                break
            alive = self.world.workers.keys() | self.world.standbys
            epoch = min(self.world.told_to_end & alive or alive)
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
    (epoch,) = world.holders()
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
        for epoch in world.told_to_end & world.workers.keys():
            world.lose_worker(epoch)
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
    assert world.workers == {1: "sd15", 2: "sdxl"}
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


def test_a_switch_starts_the_next_worker_before_it_ends_the_present_one(world: World) -> None:
    submit(world, "sd15")
    make_ready(world)
    finish(world)
    world.submitted["job-1"] = "sdxl"
    effects = world.send(Submitted("job-1", "sdxl"))
    assert effects == [
        StartWorker(2, "sdxl", "job-1", replaces=1),
        EndWorker(1, politely=False, why="switch to sdxl"),
    ]


def test_a_switch_takes_the_standby_and_the_quiet_device_gets_another() -> None:
    world = World(standbys=True)
    assert world.send(Begun()) == [StartStandby(1)]
    submit(world, "sd15")
    assert world.workers == {1: "sd15"}
    make_ready(world)
    assert not world.standbys, "not while a job runs"
    finish(world)
    assert world.standbys == {2}


def test_a_standby_that_dies_is_not_started_again_and_again() -> None:
    world = World(standbys=True)
    world.send(Begun())
    world.lose_worker(1)
    assert not world.standbys
    submit(world, "sd15")
    make_ready(world)
    finish(world)
    assert world.standbys == {3}, "a worker has become ready, so there is hope again"


def test_the_daemon_leaves_only_when_replaced_workers_and_the_standby_are_gone() -> None:
    world = World(standbys=True)
    world.send(Begun())
    submit(world, "sd15", "sdxl")
    make_ready(world)
    finish(world)
    assert world.told_to_end == {1}
    world.send(EndAsked("kill"))
    world.lose_worker(2)
    assert not world.exited
    world.lose_worker(1)
    assert world.exited
