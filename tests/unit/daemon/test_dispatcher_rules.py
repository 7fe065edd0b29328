"""The dispatcher's rules one by one, in the order of its numbered tree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import (
    Answer,
    Begun,
    EndAsked,
    EndWorker,
    Park,
    Requeue,
    StartStandby,
    StartWorker,
    Submitted,
    UnloadAsked,
    WorkerOptions,
)
from hermetic_wire.errors import (
    JobCancelled,
    JobExpired,
    OutOfMemory,
    Quarantined,
    WorkerDied,
)
from hermetic_wire.errors import LoadFailed as LoadFailedError
from unit.daemon.dispatcher_world import CRASH, World

SHORT = OutOfMemory("asked 9 GB, 2 GB were free")


@pytest.fixture
def world() -> World:
    return World(Dispatcher())


def with_models(residency: int, capacity: int | None, **footprints: int) -> World:
    dispatcher = Dispatcher(residency=residency, capacity_bytes=capacity)
    return World(dispatcher, residency, capacity, footprints)


def staying(**keep_alives: float | None) -> Callable[[str], WorkerOptions]:
    return lambda model: WorkerOptions(keep_alives.get(model))


def pinning(*models: str) -> Callable[[str], WorkerOptions]:
    return lambda model: WorkerOptions(keep_alive=10.0, pin=model in models)


def run_through(world: World, seconds: float = 1.0) -> None:
    """Jobs and loads take so long, whatever runs first."""
    while world.loading() or world.running():
        if world.loading():
            world.advance(seconds)
            world.load()
        else:
            world.finish(seconds)
        world.bury()


# One job at a time, and switches.


def test_ten_jobs_for_one_model_start_one_worker(world: World) -> None:
    world.submit(*["sd15"] * 10)
    run_through(world)
    assert world.starts == ["sd15"]
    assert len(world.ended) == 10


def test_a_worker_stays_loaded_when_nothing_waits(world: World) -> None:
    world.submit("sd15")
    run_through(world)
    assert world.holders() == [1]


def test_a_switch_starts_the_next_worker_before_it_ends_the_present_one(world: World) -> None:
    world.submit("sd15")
    run_through(world)
    world.submitted["other"] = Submitted("other", "sdxl")
    assert world.send(world.submitted["other"]) == [
        StartWorker(2, "sdxl", "other", replaces=(1,)),
        EndWorker(1, politely=False, why="switch to sdxl"),
    ]


def test_a_load_nobody_wants_any_more_is_ended(world: World) -> None:
    world.submit("sd15", "sdxl")
    world.cancel("job-0")
    assert world.workers[1].told_to_end
    assert world.starts == ["sd15", "sdxl"]
    world.lose(1)
    assert world.holders() == [2]
    assert not world.dispatcher.pauses(world.now), "it was asked to end"


def test_a_load_that_others_want_goes_on_without_its_cause(world: World) -> None:
    world.submit("sd15", "sd15", "sdxl")
    world.cancel("job-0")
    run_through(world)
    assert world.starts == ["sd15", "sdxl"]


def test_what_was_loaded_for_a_job_runs_it_first(world: World) -> None:
    """Else a load could be in vain, again and again."""
    world.submit("sd15", app="slow")
    world.submit("sdxl", app="other", at=-100.0, priority="low")
    assert world.loading() == [1]
    world.load()
    assert world.runs == ["job-0"], "although the other has been due for long"
    world.finish(1.0)
    assert world.starts == ["sd15", "sdxl"]


def test_a_worker_that_is_not_to_be_used_again_makes_room_at_once(world: World) -> None:
    world.submit("sd15", "sd15")
    world.load()
    world.finish(reusable=False)
    assert world.workers[1].told_to_end
    assert world.loading() == [2]


# Fair order.


def test_apps_take_turns_by_the_seconds_they_have_had(world: World) -> None:
    world.submit(*["echo"] * 6, app="long")
    world.submit(*["echo"] * 6, app="short")
    world.load()
    seconds = {"long": 3.0, "short": 1.0}
    had = {"long": 0.0, "short": 0.0}
    for _ in range(8):
        app = world.submitted[world.runs[-1]].app
        had[app] += seconds[app]
        world.finish(seconds[app])
        assert abs(had["long"] - had["short"]) <= 3.0
    assert had == {"long": 6.0, "short": 6.0}


def test_an_app_that_was_away_has_saved_up_nothing(world: World) -> None:
    world.submit("echo", app="guest")
    world.submit(*["echo"] * 200, app="resident")
    world.load()
    for _ in range(100):
        world.finish(1.0)
    world.submit(*["echo"] * 50, app="guest")
    since = len(world.runs)
    for _ in range(20):
        world.finish(1.0)
    apps = [world.submitted[job_id].app for job_id in world.runs[since:]]
    assert apps.count("guest") == 10


def test_loads_are_charged_to_the_app_that_caused_them(world: World) -> None:
    world.submit("sd15", *["echo"] * 9, app="mixed")
    world.advance(1.0)
    world.submit(*["echo"] * 9, app="plain")
    world.advance(5.0)
    world.load()
    world.finish(1.0)
    world.load()
    for _ in range(6):
        world.finish(1.0)
    apps = [world.submitted[job_id].app for job_id in world.runs[1:]]
    assert apps[:6] == ["plain"] * 6, "the other has had a load of six seconds"


def test_a_higher_class_goes_first_whatever_its_app_has_had(world: World) -> None:
    world.submit("echo")
    world.load()
    low, normal, high = (
        world.submit("echo", priority=priority)[0] for priority in ("low", "normal", "high")
    )
    run_through(world)
    assert world.runs[1:] == [high, normal, low]


def test_nobody_starves_in_the_low_class(world: World) -> None:
    world.submit(*["echo"] * 200, app="eager", priority="high")
    (low,) = world.submit("echo", app="modest", priority="low")
    world.load()
    while low not in world.runs:
        world.finish(1.0)
    assert world.now == 60.0


@pytest.mark.parametrize("seconds", [59.0, 61.0, 600.0])
def test_nobody_starves_where_each_job_takes_longer_than_the_longest_wait(
    world: World, seconds: float
) -> None:
    """Each time that the device is free, the next of the higher class is due as well."""
    world.submit(*["echo"] * 20, app="eager", priority="high")
    (low,) = world.submit("echo", app="modest", priority="low")
    world.load()
    while low not in world.runs:
        world.finish(seconds)
    assert world.now <= 60.0 + 2 * seconds, "what ran then, and who had waited for longer"


def test_who_is_the_first_because_another_has_left_waits_from_then_on(world: World) -> None:
    world.submit(*["echo"] * 20, app="eager", priority="high")
    (leaving,) = world.submit("echo", app="a", priority="low")
    (staying,) = world.submit("echo", app="b", priority="low")
    world.load()
    world.advance(1.0)
    world.cancel(leaving)
    while staying not in world.runs:
        world.finish(20.0)
    assert world.now == 1.0 + 60.0


def test_a_flood_is_not_due_but_its_first_job_is(world: World) -> None:
    """Jobs that were submitted long ago are not due because they are many."""
    world.submit(*["echo"] * 100, app="flood", priority="low")
    world.submit(*["echo"] * 300, app="other", priority="high")
    world.load()
    for _ in range(300):
        world.finish(1.0)
    flood = [job_id for job_id in world.runs if world.submitted[job_id].app == "flood"]
    assert len(flood) == 1 + 300 // 60


# Affinity.


def test_the_loaded_model_goes_first_four_times_while_nothing_is_measured(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.submit("sdxl", *["sd15"] * 9)
    for _ in range(5):
        world.finish(0.0)
    assert world.runs == ["job-0", "job-2", "job-3", "job-4", "job-5"]
    assert world.starts == ["sd15", "sdxl"]


@pytest.mark.parametrize(
    ("switch", "job", "passes"), [(0.03, 3.0, 1), (0.5, 2.0, 5), (8.0, 1.0, 16), (1.0, 0.0, 16)]
)
def test_how_often_one_is_overtaken_follows_from_what_a_switch_costs(
    switch: float, job: float, passes: int
) -> None:
    world = World(Dispatcher(max_wait=1e9))
    world.dispatcher.teach("sdxl", job, switch, None)
    world.submit("sd15")
    world.load()
    world.submit("sdxl", *["sd15"] * 30)
    while world.running():
        world.finish(1.0)
    assert len(world.runs) == 1 + passes


def test_one_that_has_waited_as_the_first_of_its_app_goes_before_the_loaded_model() -> None:
    world = World(Dispatcher(max_wait=2.5))
    world.submit("sd15")
    world.load()
    world.submit("sdxl", *["sd15"] * 9)
    while world.running():
        world.finish(1.0)
    assert world.runs == ["job-0", "job-2", "job-3"]


def test_the_time_before_a_restart_counts_as_waiting(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.submit("sdxl", *["sd15"] * 9, at=-60.0)
    world.finish(1.0)
    assert world.starts == ["sd15", "sdxl"]


def test_a_loaded_model_overtakes_across_apps_but_not_across_a_due_one(world: World) -> None:
    world.submit("sd15", app="a")
    world.load()
    world.submit("sdxl", app="b", priority="high")
    world.submit(*["sd15"] * 9, app="c", priority="low")
    for _ in range(5):
        world.finish(1.0)
    assert world.runs[1:] == ["job-2", "job-3", "job-4", "job-5"]
    assert world.loading()


# An id that comes again. Its first job was refused by the store, so nobody else knows of it.


def come_again(world: World, job_id: str, model: str, **more: float) -> None:
    world.cancel(job_id)
    del world.ended[job_id]
    world.cancel_asked.clear()
    world.send(Submitted(job_id, model, "app", **more))  # type: ignore[arg-type]


def test_the_job_that_a_load_was_for_comes_again_under_its_id(world: World) -> None:
    (job_id,) = world.submit("sd15")
    come_again(world, job_id, "sd15")
    world.submit("sd15")
    run_through(world)
    assert sorted(world.ended) == ["job-0", "job-1"]
    assert len(world.runs) == 2


def test_a_job_that_comes_again_has_its_own_time_to_begin(world: World) -> None:
    world.submit("echo")
    world.load()
    world.submit("echo", expires_at=30.0)
    (job_id,) = world.submit("echo", expires_at=60.0)
    come_again(world, job_id, "echo", expires_at=3600.0)
    others = world.submit("echo", "echo")
    world.advance(100.0)
    assert list(world.ended) == ["job-1"]
    world.work_off()
    assert {world.ended[each] for each in (job_id, *others)} == {None}


# Several at once.


def test_models_that_fit_stay_loaded_beside_each_other() -> None:
    world = with_models(2, 10, sd15=2, sdxl=7)
    for model in ("sd15", "sdxl"):
        world.dispatcher.teach(model, None, None, world.footprints[model])
        world.measured.add(model)
    world.submit("sd15", "sdxl", "sd15", "sdxl")
    run_through(world)
    assert world.starts == ["sd15", "sdxl"]
    assert len(world.holders()) == 2


def test_a_model_never_measured_is_loaded_alone() -> None:
    world = with_models(3, 10, sd15=2, sdxl=7)
    world.submit("sd15", "sdxl")
    run_through(world)
    assert world.holders() == [2]
    world.submit("sd15")
    run_through(world)
    assert len(world.holders()) == 2, "now both are known to fit"


def test_the_one_idle_for_longest_goes_and_the_pinned_one_last() -> None:
    dispatcher = Dispatcher(residency=3, options=pinning("first"))
    world = World(dispatcher, residency=3)
    for model in ("first", "second", "third"):
        world.submit(model)
        run_through(world)
        world.advance(1.0)
    world.submit("fourth")
    told = [worker.model for worker in world.workers.values() if worker.told_to_end]
    assert told == ["second"]


def test_as_many_go_as_it_takes_to_make_room() -> None:
    world = with_models(3, 12, small=1, middle=4, large=9)
    for model, size in world.footprints.items():
        world.dispatcher.teach(model, None, None, size)
        world.measured.add(model)
    world.submit("small", "middle")
    run_through(world)
    world.submit("large")
    told = [worker.model for worker in world.workers.values() if worker.told_to_end]
    assert told == ["small", "middle"], "the older one goes first, although it does not help"


def test_only_one_job_runs_with_several_loaded() -> None:
    world = with_models(2, None)
    world.submit("sd15", "sdxl")
    world.load()
    world.finish()
    world.load()
    assert len(world.holders()) == 2
    world.submit("sd15")
    assert len(world.running()) == 1


# Expiry, pause, cancel.


def test_a_job_that_is_not_begun_in_time_is_told_so(world: World) -> None:
    world.submit("echo")
    world.load()
    world.submit("echo", expires_at=5.0)
    assert world.dispatcher.wake_at == 5.0
    world.advance(5.0)
    error = world.ended["job-1"]
    assert isinstance(error, JobExpired)
    assert "expires_in" in error.message


def test_a_job_that_was_begun_in_time_does_not_expire(world: World) -> None:
    world.submit("echo", expires_at=5.0)
    world.load()
    world.advance(10.0)
    world.lose(1)
    assert world.waiting() == {"job-0"}


def test_while_paused_nothing_starts_and_what_runs_goes_on(world: World) -> None:
    world.submit("sd15", "sd15", "sdxl")
    world.load()
    world.pause(True)
    world.finish(1.0)
    assert not world.running()
    world.submit("echo")
    assert world.starts == ["sd15"]
    world.pause(False)
    assert world.runs == ["job-0", "job-1"]


def test_a_worker_that_is_ready_in_a_pause_waits_for_its_end(world: World) -> None:
    world.submit("sd15")
    world.pause(True)
    world.load()
    assert not world.runs
    world.pause(False)
    assert world.runs == ["job-0"]


def test_a_job_whose_cancel_ended_the_worker_is_cancelled_not_tried_again(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.cancel("job-0")
    world.lose(1)
    assert isinstance(world.ended["job-0"], JobCancelled)
    assert not world.dispatcher.pauses(world.now)


# Deaths.


def test_a_job_whose_worker_dies_waits_again_in_its_old_place(world: World) -> None:
    world.submit("sd15", "sd15")
    world.load()
    effects = world.lose(1)
    assert effects == [Requeue("job-0", CRASH, retry_after=1.0)]
    assert world.dispatcher.waiting == ["job-0", "job-1"]
    assert world.dispatcher.retry_in("sd15", world.now) == 1.0
    assert world.dispatcher.pauses(world.now) == {"sd15": (1.0, CRASH)}
    assert world.dispatcher.wake_at == 1.0
    world.advance(1.0)
    assert world.starts == ["sd15", "sd15"]


def test_the_second_death_quarantines_the_job_with_both_reports(world: World) -> None:
    world.submit("sd15", "sd15")
    world.load()
    world.lose(1, WorkerDied("signal 11", report="report one"))
    world.advance(1.0)
    world.load()
    world.lose(2, WorkerDied("signal 9", report="report two"))
    error = world.ended["job-0"]
    assert isinstance(error, Quarantined)
    assert "signal 11" in error.message
    assert "signal 9" in error.message
    assert error.report is not None
    assert "report one" in error.report
    assert "report two" in error.report
    assert world.waiting() == {"job-1"}, "which has had no part in it"


def test_a_death_before_a_restart_counts(world: World) -> None:
    world.submit("sd15", deaths=(CRASH,))
    world.load()
    world.lose(1)
    assert isinstance(world.ended["job-0"], Quarantined)


def test_a_job_that_was_quarantined_before_is_not_begun(world: World) -> None:
    world.submit("sd15", deaths=(CRASH, CRASH))
    assert isinstance(world.ended["job-0"], Quarantined)
    assert not world.starts


def test_a_load_killed_under_three_jobs_is_counted_to_the_one_that_caused_it(world: World) -> None:
    world.submit("sd15", "sd15", "sd15")
    world.lose(1)
    world.advance(1.0)
    world.lose(2)
    assert list(world.ended) == ["job-0"]
    world.advance(2.0)
    assert world.workers[3].cause == "job-1"


def test_pauses_double_to_their_limit_and_others_go_on() -> None:
    world = World(Dispatcher(backoff=1.0, backoff_limit=5.0))
    world.submit(*["bad"] * 20)
    lengths = []
    for _ in range(5):
        world.lose(world.loading()[0])
        lengths.append(world.dispatcher.retry_in("bad", world.now))
        world.submit("good")
        world.load()
        world.finish()
        world.advance(lengths[-1])
        world.bury()
    assert lengths == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_success_ends_the_doubling(world: World) -> None:
    world.submit("bad", "bad", "bad")
    for _ in range(2):
        world.lose(world.loading()[0])
        world.advance(world.dispatcher.retry_in("bad", world.now))
    epoch = world.load()
    world.finish()
    world.submit("bad")
    world.lose(epoch)
    assert world.dispatcher.retry_in("bad", world.now) == 1.0


def test_the_death_of_an_idle_worker_is_nobodys(world: World) -> None:
    world.submit("sd15")
    run_through(world)
    assert world.lose(1) == []
    assert not world.dispatcher.pauses(world.now)


# Memory.


def test_a_job_that_runs_out_of_memory_is_tried_again_with_the_whole_device() -> None:
    world = with_models(3, 20, sd15=2, sdxl=7)
    world.submit("sd15", "sdxl", "sd15")
    run_through(world)
    assert len(world.holders()) == 1, "neither was known"
    world.submit("sd15")
    run_through(world)
    assert len(world.holders()) == 2
    (job_id,) = world.submit("sdxl")
    world.finish(error=SHORT, reusable=False)
    assert job_id in world.waiting()
    (epoch,) = world.loading()
    assert world.holders() == [epoch]
    assert world.workers[epoch].low_memory
    world.load()
    world.finish()
    assert world.ended[job_id] is None
    world.submit("sd15")
    run_through(world)
    assert len(world.holders()) == 1, "it is not put beside others any more"
    assert world.dispatcher.learnt("sdxl")[2] == 20


def test_the_second_time_memory_runs_out_is_the_end_of_the_job(world: World) -> None:
    world.submit("sdxl")
    world.load()
    world.finish(error=SHORT, reusable=False)
    assert world.deaths["job-0"] == 0
    world.load()
    world.finish(error=SHORT, reusable=False)
    assert world.ended["job-0"] is SHORT


def test_a_load_that_runs_out_of_memory_is_tried_again_for_all(world: World) -> None:
    world.submit("flux", "flux")
    world.load(SHORT)
    (epoch,) = world.loading()
    assert world.workers[epoch].low_memory
    world.load(SHORT)
    assert world.ended == {"job-0": SHORT, "job-1": SHORT}


@pytest.mark.parametrize("beside", [True, False])
def test_a_load_that_ran_out_of_memory_alone_is_never_tried_in_full_again(beside: bool) -> None:
    """Beside another, that one may have been to blame."""
    world = with_models(2, None)
    if beside:
        world.submit("sd15")
        run_through(world)
    world.submit("flux")
    world.load(SHORT)
    run_through(world)
    (epoch,) = world.holders()
    assert world.workers[epoch].low_memory
    world.submit("sd15")
    run_through(world)
    world.submit("flux")
    run_through(world)
    (epoch,) = world.holders()
    assert world.workers[epoch].low_memory == (not beside)


def test_a_job_that_runs_out_of_memory_while_it_is_cancelled_is_cancelled(world: World) -> None:
    world.submit("sdxl")
    world.load()
    world.cancel("job-0")
    world.finish(error=SHORT, reusable=False)
    assert isinstance(world.ended["job-0"], JobCancelled)


def test_a_model_that_cannot_be_loaded_answers_everyone(world: World) -> None:
    world.submit("sd15", "sdxl", "sd15")
    error = LoadFailedError("no such file")
    world.load(error)
    assert world.ended == {"job-0": error, "job-2": error}
    assert world.starts == ["sd15", "sdxl"]
    assert not world.dispatcher.pauses(world.now)


# Keep-alive and pins.


def test_an_idle_worker_ends_after_its_keep_alive() -> None:
    world = World(Dispatcher(options=staying(sd15=30.0)))
    world.submit("sd15")
    world.load()
    assert world.dispatcher.idle_until(1) is None, "it works"
    world.finish(2.0)
    assert world.dispatcher.idle_until(1) == 32.0
    world.advance(29.0)
    assert world.holders() == [1]
    world.advance(1.0)
    assert world.holders() == []


@pytest.mark.parametrize(("wanted", "left"), [(5.0, 5.0), (0.0, None), (-1.0, None)])
def test_a_jobs_own_keep_alive_counts_for_its_worker(wanted: float, left: float | None) -> None:
    world = World(Dispatcher(options=staying(sd15=30.0)))
    world.submit("sd15", keep_alive=wanted)
    world.load()
    world.finish()
    assert world.dispatcher.idle_until(1) == left
    assert world.workers[1].told_to_end == (wanted == 0.0)


def test_a_job_that_waits_keeps_its_model_in_a_pause() -> None:
    world = World(Dispatcher(options=staying(sd15=1.0)))
    world.submit("sd15", "sd15")
    world.load()
    world.pause(True)
    world.finish()
    world.advance(100.0)
    assert world.holders() == [1]
    world.cancel("job-1")
    assert world.holders() == []


def test_a_pinned_model_stays_and_comes_back_when_there_is_room() -> None:
    world = World(Dispatcher(options=pinning("sd15")))
    world.submit("sd15")
    run_through(world)
    world.advance(1000.0)
    assert world.holders() == [1]
    world.submit("sdxl")
    run_through(world)
    assert world.starts == ["sd15", "sdxl"], "which may stay for its own keep-alive"
    world.advance(10.0)
    assert world.starts == ["sd15", "sdxl", "sd15"]
    assert world.workers[3].cause is None


def test_the_load_of_a_pinned_model_makes_way_for_a_job() -> None:
    world = World(Dispatcher(options=pinning("sd15")))
    world.submit("sd15", "sdxl")
    run_through(world)
    world.advance(10.0)
    assert world.workers[3].cause is None
    world.submit("sdxl")
    assert world.workers[3].told_to_end
    run_through(world)
    assert world.ended["job-2"] is None


def test_a_pinned_model_that_crashes_pauses_like_any_other() -> None:
    world = World(Dispatcher(options=pinning("sd15")))
    world.submit("sd15")
    run_through(world)
    world.lose(1)
    assert world.starts == ["sd15", "sd15"], "it was idle, so nothing speaks against it"
    world.lose(2)
    assert world.starts == ["sd15", "sd15"]
    world.advance(1.0)
    assert world.starts == ["sd15", "sd15", "sd15"]


def test_a_pinned_model_that_cannot_be_loaded_is_not_tried_again_and_again() -> None:
    world = World(Dispatcher(options=pinning("sd15")))
    world.submit("sd15")
    run_through(world)
    world.lose(1)
    world.load(LoadFailedError("the file is gone"))
    world.bury()
    world.advance(1000.0)
    assert len(world.starts) == 2


def test_who_unloads_a_pinned_model_by_hand_means_it() -> None:
    world = World(Dispatcher(options=pinning("sd15")))
    world.submit("sd15")
    run_through(world)
    world.unload("sd15")
    world.bury()
    assert world.starts == ["sd15"]
    world.submit("sd15")
    run_through(world)
    world.send(UnloadAsked("sd15", None))
    assert world.starts == ["sd15", "sd15", "sd15"], "the configuration was read again"


# Unload.


def test_unload_ends_an_idle_worker_and_answers_when_it_is_gone(world: World) -> None:
    world.submit("sd15")
    run_through(world)
    world.unload("sd15")
    assert world.workers[1].told_to_end
    assert world.tickets
    assert Answer(next(iter(world.tickets)), found=True) in world.lose(1)
    assert not world.tickets


def test_unload_lets_the_running_job_finish(world: World) -> None:
    world.submit("sd15", "sd15")
    world.load()
    world.unload("sd15")
    assert world.running()
    world.finish()
    assert world.workers[1].told_to_end
    assert world.loading() == [2], "for the job that still waits"


def test_unload_of_one_that_just_ends_waits_for_its_end(world: World) -> None:
    world.submit("sd15", "sdxl")
    world.load()
    world.finish()
    world.unload("sd15")
    assert world.tickets
    world.lose(1)
    assert not world.tickets


def test_unload_of_what_is_not_loaded_is_answered_at_once(world: World) -> None:
    assert world.unload("sd15") != []
    assert not world.tickets


# Standbys.


def test_a_switch_takes_the_standby_and_the_quiet_device_gets_another() -> None:
    world = World(Dispatcher(standbys=True))
    assert world.send(Begun()) == [StartStandby(1)]
    world.submit("sd15")
    assert world.holders() == [1]
    world.load()
    assert not world.spare(), "not while a job runs"
    world.finish()
    assert world.spare() == [2]


def test_a_standby_that_dies_is_not_started_again_and_again() -> None:
    world = World(Dispatcher(standbys=True))
    world.send(Begun())
    world.lose(1)
    assert not world.spare()
    world.submit("sd15")
    world.load()
    world.finish()
    assert world.spare() == [3], "a worker has become ready, so there is hope again"


# Ends.


def test_a_drain_finishes_everything_and_leaves(world: World) -> None:
    world.submit("sd15", "sdxl")
    world.end("drain")
    world.work_off()
    assert world.exited
    assert world.ended == {"job-0": None, "job-1": None}


def test_a_drain_in_a_pause_parks_what_waits(world: World) -> None:
    """Else it would never end."""
    world.pause(True)
    world.submit("sd15")
    world.end("drain")
    assert world.parked == {"job-0"}
    assert world.exited


def test_a_stop_lets_the_running_job_finish_within_the_budget(world: World) -> None:
    world.submit("sd15", "sd15", "sdxl")
    world.load()
    world.end("stop", 10.0)
    assert world.parked == {"job-1", "job-2"}
    assert world.dispatcher.wake_at == 10.0
    world.finish(9.0)
    assert world.ended == {"job-0": None}
    world.bury()
    assert world.exited


def test_a_stop_parks_the_running_job_when_the_budget_is_over(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.end("stop", 10.0)
    world.advance(10.0)
    assert world.parked == {"job-0"}
    assert world.workers[1].told_to_end


def test_a_stop_ends_a_load_under_way(world: World) -> None:
    world.submit("sd15")
    world.end("stop", 10.0)
    assert world.parked == {"job-0"}
    assert world.workers[1].told_to_end


def test_a_job_being_cancelled_when_the_daemon_stops_is_not_run_by_the_next(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.cancel("job-0")
    world.end("stop", 1.0)
    world.advance(1.0)
    assert isinstance(world.ended["job-0"], JobCancelled)


def test_a_death_in_the_last_seconds_is_counted_and_the_job_parked(world: World) -> None:
    world.submit("sd15")
    world.load()
    world.end("stop", 10.0)
    effects = world.lose(1)
    assert effects[:2] == [Requeue("job-0", CRASH, retry_after=1.0), Park("job-0")]
    assert world.exited


def test_a_kill_after_a_stop_kills_also_those_that_were_asked_politely(world: World) -> None:
    world.submit("sd15")
    run_through(world)
    world.end("stop", 10.0)
    effects = world.send(EndAsked("kill"))
    assert effects == [EndWorker(1, politely=False, why="the daemon ends")]
    assert world.send(EndAsked("kill")) == []
    world.submit("late")
    assert "job-1" in world.parked
    world.bury()
    assert world.exited


def test_a_softer_end_changes_nothing(world: World) -> None:
    world.submit("sd15")
    world.end("stop")
    world.end("drain")
    assert world.dispatcher.ending == "stop"


def test_it_leaves_only_when_replaced_workers_and_the_standby_are_gone() -> None:
    world = World(Dispatcher(standbys=True))
    world.send(Begun())
    world.submit("sd15", "sdxl")
    world.load()
    world.finish()
    world.end("kill")
    world.lose(2)
    assert not world.exited
    world.lose(1)
    assert world.exited


# What may be asked.


def test_estimates_follow_from_what_was_measured(world: World) -> None:
    world.dispatcher.teach("sd15", 2.0, 1.0, None)
    world.dispatcher.teach("sdxl", 5.0, 3.0, None)
    world.submit("sd15", "sdxl", "new", "sd15")
    assert world.dispatcher.estimates(0.0) == {"job-0": 3.0, "job-3": 5.0, "job-1": 13.0}
    world.advance(1.0)
    world.load()
    world.advance(0.5)
    assert world.dispatcher.running == "job-0"
    assert world.dispatcher.estimates(1.5) == {"job-0": 1.5, "job-3": 3.5, "job-1": 11.5}


def test_what_pauses_is_estimated_from_the_end_of_its_pause() -> None:
    world = World(Dispatcher(backoff=50.0))
    world.dispatcher.teach("sd15", 2.0, 1.0, None)
    world.submit("sd15")
    world.lose(1)
    assert world.dispatcher.estimates(world.now) == {"job-0": 53.0}


def test_measured_times_are_moving_averages_and_can_be_taught_to_the_next(world: World) -> None:
    world.footprints["sd15"] = 3
    world.submit("sd15", "sd15")
    world.advance(4.0)
    world.load()
    world.finish(1.0)
    world.finish(2.0)
    assert world.dispatcher.learnt("sd15") == (1.25, 4.0, 3)
    assert world.dispatcher.learnt("sdxl") == (None, None, None)


def test_a_job_that_only_loads_says_nothing_of_how_long_jobs_take(world: World) -> None:
    world.submit("sd15", counts=False)
    run_through(world)
    assert world.dispatcher.learnt("sd15")[0] is None


def test_positions_are_those_in_which_the_jobs_run(world: World) -> None:
    for model in ("sd15", "sdxl", "flux"):
        world.dispatcher.teach(model, 1.0, 0.2, None)
    world.submit("sd15")
    world.advance(0.2)
    world.load()
    world.submit("sdxl", *["sd15"] * 6, "sdxl", "flux", "sd15")
    expected = world.dispatcher.waiting
    while world.running():
        world.finish(1.0)
        if world.loading():
            world.advance(0.2)
            world.load()
    assert world.runs[1:] == expected


def test_epochs_go_on_where_the_last_daemon_ended() -> None:
    world = World(Dispatcher(first_epoch=41))
    world.submit("sd15")
    assert world.holders() == [42]
    assert world.dispatcher.epoch == 42
