"""The dispatcher as a state machine: whatever happens in whatever order, no job is lost."""

from __future__ import annotations

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
from hermetic_daemon.events import Begun, Finished, Gone, LoadFailed, Ready, WorkerOptions
from hermetic_wire.errors import (
    GenerationFailed,
    HermeticError,
    JobCancelled,
    OutOfMemory,
    Quarantined,
)
from hermetic_wire.errors import LoadFailed as LoadFailedError
from unit.daemon.dispatcher_world import CRASH, World

FOOTPRINTS = {"sd15": 2, "sdxl": 7, "flux": 12, "echo": 0}
"""In gigabytes, say; that of echo is never measured."""
OPTIONS = {
    "sd15": WorkerOptions(keep_alive=5.0),
    "sdxl": WorkerOptions(keep_alive=30.0),
    "flux": WorkerOptions(keep_alive=None),
    "echo": WorkerOptions(keep_alive=0.0),
}
PINNED = {"sdxl": WorkerOptions(keep_alive=30.0, pin=True)}
MODELS = st.sampled_from(sorted(FOOTPRINTS))
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 4.0, 20.0, 61.0, 400.0])
ENDS: list[tuple[HermeticError | None, bool]] = [
    (None, True),
    (None, False),
    (GenerationFailed("raised"), False),
    (OutOfMemory("too large"), False),
]


class DispatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Dispatcher())

    @initialize(
        standbys=st.booleans(),
        pins=st.booleans(),
        residency=st.integers(1, 3),
        capacity=st.sampled_from([None, 10, 20]),
    )
    def begin(self, standbys: bool, pins: bool, residency: int, capacity: int | None) -> None:
        options = OPTIONS | (PINNED if pins else {})
        dispatcher = Dispatcher(
            standbys=standbys,
            residency=residency,
            capacity_bytes=capacity,
            options=options.__getitem__,
            first_epoch=7,
        )
        self.world = World(dispatcher, residency, capacity, FOOTPRINTS)
        self.world.send(Begun())
        assert bool(self.world.spare()) == standbys

    @precondition(lambda self: not self.world.exited)
    @rule(
        model=MODELS,
        app=st.sampled_from(["painter", "upscaler", "toy"]),
        priority=st.sampled_from(["high", "normal", "low"]),
        expires_in=st.sampled_from([None, None, 2.0, 50.0]),
        keep_alive=st.sampled_from([None, None, 0.0, -1.0, 10.0]),
        age=st.sampled_from([0.0, 0.0, 70.0]),
        deaths=st.sampled_from([(), (), (CRASH,)]),
        count=st.integers(1, 4),
    )
    def submit(
        self,
        model: str,
        app: str,
        priority: str,
        expires_in: float | None,
        keep_alive: float | None,
        age: float,
        deaths: tuple[HermeticError, ...],
        count: int,
    ) -> None:
        now = self.world.now
        self.world.submit(
            *[model] * count,
            app=app,
            priority=priority,
            at=now - age,
            expires_at=None if expires_in is None else now + expires_in,
            keep_alive=keep_alive,
            deaths=deaths,
        )

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        world = self.world
        job_id = data.draw(st.sampled_from([*world.submitted, "never-seen"]))
        if job_id in world.parked:
            return
        waiting = job_id in world.waiting()
        world.cancel(job_id)
        if waiting:
            assert isinstance(world.ended[job_id], JobCancelled)

    @rule(model=MODELS)
    def unload(self, model: str) -> None:
        self.world.unload(model)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.pause(paused)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @precondition(lambda self: self.world.loading())
    @rule(error=st.sampled_from([None, None, LoadFailedError("no"), OutOfMemory("too large")]))
    def load_ends(self, error: HermeticError | None) -> None:
        world = self.world
        (epoch,) = world.loading()
        worker = world.workers[epoch]
        world.load(error)
        if error is not None:
            assert worker.told_to_end
            if isinstance(error, LoadFailedError) or worker.low_memory:
                waiting = world.waiting()
                assert all(world.submitted[job_id].model != worker.model for job_id in waiting)

    @precondition(lambda self: self.world.running())
    @rule(end=st.sampled_from(ENDS), seconds=SECONDS)
    def job_ends(self, end: tuple[HermeticError | None, bool], seconds: float) -> None:
        world = self.world
        ((epoch, job_id),) = world.running().items()
        world.advance(seconds)
        if epoch not in world.running():
            return  # the budget was over
        low_memory, (error, reusable) = world.workers[epoch].low_memory, end
        if job_id in world.cancel_asked and error is None:
            error = JobCancelled("as asked")
        world.finish(error=error, reusable=reusable)
        if not isinstance(error, OutOfMemory) or low_memory or job_id in world.cancel_asked:
            assert job_id in world.ended
        if not reusable:
            assert world.workers[epoch].told_to_end

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        world = self.world
        epoch = data.draw(st.sampled_from(sorted(world.workers)))
        worker = world.workers[epoch]
        job_id = None if worker.told_to_end else worker.job
        cause = worker.cause if worker.cause in world.waiting() else None
        loads = bool(worker.model and not worker.ready)
        asked = worker.told_to_end or job_id in world.cancel_asked
        victim = None if asked else cause if loads else job_id
        worker.job = None
        before = world.deaths.copy()
        world.lose(epoch)
        if not asked and (loads or job_id):
            assert worker.model in world.dispatcher.pauses(world.now)
        if victim is None:
            assert world.deaths == before, "that was nobody's fault"
        elif before[victim] == 1:
            assert isinstance(world.ended[victim], Quarantined)
        else:
            assert world.deaths[victim] == 1
            assert victim in world.waiting() | world.parked
        if job_id is not None and job_id in world.cancel_asked:
            assert isinstance(world.ended[job_id], JobCancelled)

    @rule(age=st.integers(1, 5), model=MODELS)
    def an_older_epoch_speaks(self, age: int, model: str) -> None:
        epoch = self.world.dispatcher.epoch - age
        worker = self.world.workers.get(epoch)
        for event in (
            Ready(epoch),
            LoadFailed(epoch, LoadFailedError("stale")),
            Finished(epoch, "job-0", None, reusable=True),
        ):
            if worker is None or worker.told_to_end:
                assert self.world.send(event) == []
        if worker is None:
            assert self.world.send(Gone(epoch, CRASH)) == []

    @rule(mode=st.sampled_from(["drain", "stop", "kill"]), budget=st.sampled_from([0.0, 3.0]))
    def end(self, mode: str, budget: float) -> None:
        world = self.world
        world.end(mode, budget)
        if mode != "drain":
            assert not world.waiting()
            assert not world.loading()
        if mode == "kill" or (mode == "stop" and not budget):
            assert not world.holders()

    # What always holds.

    @invariant()
    def every_job_waits_runs_is_parked_or_has_ended(self) -> None:
        world = self.world
        places = [
            *world.dispatcher.waiting,
            *world.running().values(),
            *world.parked,
            *world.ended,
        ]
        assert sorted(places) == sorted(world.submitted)
        assert world.dispatcher.waiting_count == len(world.waiting())
        for app in ("painter", "upscaler", "toy"):
            own = [one for one in world.waiting() if world.submitted[one].app == app]
            assert world.dispatcher.count_of(app) == len(own)

    @invariant()
    def somebody_works_while_somebody_waits(self) -> None:
        """Nothing stands still: a waiting job implies somebody who will report, or an alarm."""
        world = self.world
        if world.waiting() and not world.paused:
            assert world.loading() or world.running() or world.dispatcher.wake_at is not None
            paused = world.dispatcher.pauses(world.now)
            if any(world.submitted[job_id].model not in paused for job_id in world.waiting()):
                assert world.loading() or world.running()

    @invariant()
    def nobody_is_overtaken_too_often(self) -> None:
        assert all(count <= 16 for _, count in self.world.dispatcher._waiting.in_order())

    @invariant()
    def it_is_never_to_be_woken_in_the_past(self) -> None:
        wake_at = self.world.dispatcher.wake_at
        assert wake_at is None or wake_at > self.world.now

    @invariant()
    def every_estimate_is_of_an_open_job_and_not_before_now(self) -> None:
        estimates = self.world.dispatcher.estimates(self.world.now)
        assert estimates.keys() <= self.world.waiting() | set(self.world.running().values())
        assert all(seconds >= 0 for seconds in estimates.values())

    def teardown(self) -> None:
        """From any state, letting things take their course ends every job and answers everyone."""
        self.world.end("drain")
        self.world.work_off()
        assert self.world.exited
        assert not self.world.tickets
        assert self.world.cancel_asked & set(self.world.submitted) <= set(self.world.ended)


DispatcherMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestDispatcher = DispatcherMachine.TestCase
