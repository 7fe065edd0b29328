"""One worker goes, another comes: who waits for whose memory, standbys, and forks that never come.

The dispatcher starts the next worker before it ends the present one; so does `switch` here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hermetic_daemon import events
from hermetic_daemon.config import WorkerSection
from hermetic_daemon.memory import POLL_SECONDS
from hermetic_daemon.process import ExitStatus
from hermetic_wire import worker as wire
from support.clock import advance, settle
from support.stage import Stage, on_stage

CONFIG = WorkerSection()
SIZE = 1
"""Bytes of a model's files: more than the double of the memory has room for, unless told."""


def spec(epoch: int) -> wire.ModelSpec:
    """A model with files, which is worth a fork."""
    return wire.ModelSpec(name=f"model {epoch}", architecture="sd15", path=f"/models/{epoch}")


def who(epoch: int) -> str:
    return f"worker {epoch}"


async def say(stage: Stage, message: wire.FromWorker) -> None:
    await stage.say(who(message.epoch), list(wire.from_worker.encode(message)))


async def hello(stage: Stage, epoch: int) -> None:
    """It has come up, and what that led to has happened."""
    order = stage.template.orders.get(epoch)
    token = order.token if order else stage.processes[epoch].token
    await say(stage, wire.Hello(epoch=epoch, token=token, pid=1, version="0"))
    await stage.hear_out()


def assigned(stage: Stage, epoch: int) -> list[str]:
    """The models that the worker was told."""
    told = stage.told(who(epoch))
    return [message.model.name for message in told if isinstance(message, wire.Assign)]


async def become_ready(stage: Stage, epoch: int, **more: Any) -> None:
    ready = wire.Ready(epoch=epoch, device="cpu", memory={}, timings={"weights": 0.5}, **more)
    await say(stage, ready)
    await stage.hear_out()
    assert stage.rows[epoch].state == "ready"


async def serve(stage: Stage, epoch: int = 1) -> None:
    """A worker is ready, whose process the driver accounts memory to."""
    stage.supervisor.ensure_ready(epoch, spec(epoch), "cpu", SIZE)
    process = stage.forked(epoch)
    stage.memory.held[process.pid] = 1 << 30
    await hello(stage, epoch)
    await become_ready(stage, epoch)


def switch(stage: Stage, old: int = 1, new: int = 2) -> None:
    stage.supervisor.ensure_ready(new, spec(new), "cpu", SIZE, replaces=(old,))
    stage.supervisor.end(old, politely=False, why="a test")


async def let_go(stage: Stage, epoch: int = 1) -> None:
    """The driver has taken the dead process's memory back, and that is seen."""
    del stage.memory.held[stage.processes[epoch].pid]
    await advance(POLL_SECONDS)
    await stage.hear_out()


def ends_of(stage: Stage, epoch: int) -> list[events.Event]:
    kinds = (events.LoadFailed, events.Gone)
    return [each for each in stage.events if isinstance(each, kinds) and each.epoch == epoch]


def error_of(event: events.Event) -> str:
    assert isinstance(event, events.LoadFailed | events.Gone)
    return event.error.code


Play = Callable[[Stage], Coroutine[Any, Any, None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Play], Stage]:
    """Runs a coroutine function on a stage."""
    return lambda what: on_stage(monkeypatch, what, CONFIG)


# Memory.


def test_where_the_memory_allows_both_the_next_loads_while_the_present_one_lives(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.memory.room = SIZE
        await serve(stage)
        switch(stage)
        stage.forked(2)
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]
        await become_ready(stage, 2)
        assert stage.rows[1].state == "ending"
        assert not ends_of(stage, 2)

    play(what)


def test_where_it_does_not_the_next_comes_up_at_once_and_loads_after_the_release(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage)
        stage.forked(2)
        await hello(stage, 2)
        assert stage.processes[1].ends == [None]
        assert not assigned(stage, 2), "the old one lives"
        stage.processes[1].die()
        await advance(POLL_SECONDS)
        await stage.hear_out()
        assert not assigned(stage, 2), "the driver still accounts memory to the old one"
        await let_go(stage)
        assert assigned(stage, 2) == ["model 2"]
        await become_ready(stage, 2)
        timings = stage.supervisor.timings(2)
        assert timings.keys() >= {"fork", "hello", "reap", "release", "weights", "ready", "switch"}

    play(what)


def test_who_comes_up_after_the_release_loads_at_once(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage)
        stage.processes[1].die()
        await let_go(stage)
        stage.forked(2)
        assert not assigned(stage, 2)
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]

    play(what)


def test_the_pidfd_may_come_after_the_hello(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]
        process = stage.forked(2)
        await become_ready(stage, 2)
        assert stage.rows[2].pid == process.pid
        assert stage.rows[2].start_method == "fork"
        process.die()
        assert [type(event) for event in ends_of(stage, 2)] == [events.Gone]

    play(what)


def test_memory_that_does_not_come_back_fails_the_load_in_words(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage)
        stage.forked(2)
        await hello(stage, 2)
        stage.processes[1].die()
        await advance(CONFIG.release_seconds - 1)
        assert not ends_of(stage, 2)
        await advance(1 + POLL_SECONDS)
        await stage.hear_out()
        (failed,) = ends_of(stage, 2)
        assert isinstance(failed, events.LoadFailed)
        assert error_of(failed) == "memory_not_released"
        assert str(stage.processes[1].pid) in failed.error.message
        assert not assigned(stage, 2)
        await advance(1000)
        assert ends_of(stage, 2) == [failed], "told once"

    play(what)


def test_who_starts_while_memory_is_not_back_waits_for_it_too(
    play: Callable[[Play], Stage],
) -> None:
    """2 was replaced by 3 before it ever loaded; 3 still waits for what 1 held."""

    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage, 1, 2)
        stage.forked(2)
        stage.processes[1].die()
        switch(stage, 2, 3)
        stage.processes[2].die()
        stage.forked(3)
        await hello(stage, 3)
        assert not assigned(stage, 3)
        await let_go(stage, 1)
        assert assigned(stage, 3) == ["model 3"]

    play(what)


def test_who_starts_while_memory_never_comes_back_gets_the_error_too(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage, 1, 2)
        stage.forked(2)
        stage.processes[1].die()
        switch(stage, 2, 3)
        stage.processes[2].die()
        stage.forked(3)
        await hello(stage, 3)
        await advance(CONFIG.release_seconds + POLL_SECONDS)
        await stage.hear_out()
        assert [error_of(event) for event in ends_of(stage, 3)] == ["memory_not_released"]
        assert not assigned(stage, 3)

    play(what)


def test_who_starts_after_memory_has_not_come_back_does_not_load_over_it(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage, 1, 2)
        stage.forked(2)
        stage.processes[1].die()
        await advance(CONFIG.release_seconds + POLL_SECONDS)
        stage.supervisor.end(2, politely=False, why="its load failed")
        stage.processes[2].die()
        stage.supervisor.ensure_ready(3, spec(3), "cpu", SIZE)
        stage.forked(3)
        await hello(stage, 3)
        assert not assigned(stage, 3)
        await let_go(stage, 1)
        assert assigned(stage, 3) == ["model 3"]

    play(what)


def test_a_killed_worker_that_does_not_end_fails_the_load_in_words(
    play: Callable[[Play], Stage],
) -> None:
    """One that hangs in a driver outlives SIGKILL, and there is no release without a reap."""

    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage)
        stage.forked(2)
        await hello(stage, 2)
        await advance(CONFIG.release_seconds)
        (failed,) = ends_of(stage, 2)
        assert error_of(failed) == "memory_not_released"
        assert isinstance(failed, events.LoadFailed)
        assert "epoch 1, which was killed" in failed.error.message
        assert stage.rows[1].state == "ending"

    play(what)


def test_a_wait_for_memory_is_no_missed_deadline(play: Callable[[Play], Stage]) -> None:
    """The new worker has done what it could: only the release has a deadline now."""

    async def what(stage: Stage) -> None:
        await serve(stage)
        switch(stage)
        stage.forked(2)
        await hello(stage, 2)
        await advance(CONFIG.release_seconds - 1)
        stage.processes[1].die()
        await advance(CONFIG.release_seconds - 1)
        assert not ends_of(stage, 2)
        await let_go(stage)
        assert assigned(stage, 2) == ["model 2"]
        assert not stage.processes[2].ends

    play(what)


def test_the_end_of_a_worker_that_nobody_waits_for_holds_nobody_back(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        stage.supervisor.end(1, politely=False, why="a test")
        stage.processes[1].die()
        await let_go(stage)
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.forked(2)
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]

    play(what)


# Standby.


async def stand_by(stage: Stage, epoch: int = 5) -> None:
    stage.supervisor.start_standby(epoch, "cpu")
    stage.forked(epoch)
    await hello(stage, epoch)
    assert stage.told(who(epoch)) == [wire.Prepare(device="cpu")]
    assert stage.rows[epoch].state == "starting"
    await say(stage, wire.Prepared(epoch=epoch, timings={"context": 0.25, "kernels": 0.5}))
    await stage.hear_out()


def test_a_standby_prepares_waits_and_is_taken_without_a_new_process(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        await stand_by(stage)
        assert (stage.rows[5].state, stage.rows[5].model) == ("standby", "")
        await advance(100_000)
        assert stage.rows[5].state == "standby", "it may wait for ever"
        orders = set(stage.template.orders)
        stage.supervisor.ensure_ready(5, spec(5), "cpu", SIZE)
        await stage.hear_out()
        assert assigned(stage, 5) == ["model 5"]
        await become_ready(stage, 5)
        assert set(stage.template.orders) == orders
        assert stage.supervisor.timings(5)["prepare"] == 0.75
        assert stage.events == [events.Ready(5)]

    play(what)


def test_a_standby_is_taken_before_it_has_prepared(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.start_standby(5, "cpu")
        stage.supervisor.ensure_ready(5, spec(5), "cpu", SIZE)
        assert list(stage.template.orders) == [5]
        stage.forked(5)
        await hello(stage, 5)
        assert assigned(stage, 5) == ["model 5"]

    play(what)


def test_a_standby_that_prepares_is_assigned_and_prepared_comes_late(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.start_standby(5, "cpu")
        stage.forked(5)
        await hello(stage, 5)
        stage.supervisor.ensure_ready(5, spec(5), "cpu", SIZE)
        await say(stage, wire.Prepared(epoch=5))
        await stage.hear_out()
        assert assigned(stage, 5) == ["model 5"]
        assert stage.rows[5].state == "loading"
        await become_ready(stage, 5)

    play(what)


def test_a_standby_too_waits_for_memory(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        await serve(stage)
        await stand_by(stage)
        switch(stage, 1, 5)
        await stage.hear_out()
        assert not assigned(stage, 5)
        stage.processes[1].die()
        await let_go(stage)
        assert assigned(stage, 5) == ["model 5"]

    play(what)


def test_a_standby_that_dies_while_it_waits_is_told_once(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        await stand_by(stage)
        stage.processes[5].die()
        assert [type(event) for event in stage.events] == [events.Gone]
        assert 5 not in stage.rows

    play(what)


def test_a_standby_that_hangs_while_it_prepares_is_killed(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.start_standby(5, "cpu")
        stage.forked(5)
        await hello(stage, 5)
        await advance(CONFIG.load_seconds)
        assert stage.processes[5].ends == [None]
        stage.processes[5].die()
        (gone,) = ends_of(stage, 5)
        assert error_of(gone) == "worker_unresponsive"

    play(what)


# Forks.


def test_a_worker_told_to_end_before_it_was_forked_is_ended_when_it_comes(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.supervisor.end(2, politely=True, why="a test")
        await advance(CONFIG.hello_seconds - 1)
        assert not ends_of(stage, 2), "it may still come"
        process = stage.forked(2)
        assert process.ends == [None]
        await hello(stage, 2)
        assert not assigned(stage, 2)
        process.die()
        assert [type(event) for event in ends_of(stage, 2)] == [events.Gone]
        assert 2 not in stage.rows

    play(what)


def test_a_worker_told_to_end_that_is_never_forked_is_gone_once_and_not_started(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.supervisor.end(2, politely=False, why="a test")
        stage.not_forked(2)
        await settle()
        assert [type(event) for event in ends_of(stage, 2)] == [events.Gone]
        assert 2 not in stage.processes
        assert 2 not in stage.rows

    play(what)


def test_a_worker_told_to_end_whose_template_hangs_is_gone_in_time(
    play: Callable[[Play], Stage],
) -> None:
    """Else nothing would ever come of it, and a daemon that waits for its end could not leave."""

    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.supervisor.end(2, politely=False, why="a test")
        await advance(CONFIG.hello_seconds)
        assert stage.template.given_up == [2]

    play(what)


def test_a_worker_told_to_end_while_the_first_template_starts_is_gone_at_once(
    play: Callable[[Play], Stage],
) -> None:
    """Who waits for its memory does not wait for a template that may take a minute."""

    async def what(stage: Stage) -> None:
        stage.template.serves = False
        stage.supervisor.ensure_ready(1, spec(1), "cpu", SIZE)
        switch(stage, 1, 2)
        await settle()
        assert [type(event) for event in ends_of(stage, 1)] == [events.Gone]
        stage.forked(2)
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]
        await advance(100 * CONFIG.release_seconds)
        assert not any(isinstance(event, events.LoadFailed) for event in ends_of(stage, 2))

    play(what)


def test_a_worker_that_replaces_two_waits_for_the_memory_of_both(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.memory.room = SIZE
        await serve(stage, 1)
        await serve(stage, 2)
        stage.memory.room = 0
        stage.supervisor.ensure_ready(3, spec(3), "cpu", SIZE, replaces=(1, 2))
        for old in (1, 2):
            stage.supervisor.end(old, politely=False, why="a test")
        stage.forked(3)
        await hello(stage, 3)
        for old in (1, 2):
            assert not assigned(stage, 3)
            stage.processes[old].die()
            await let_go(stage, old)
        assert assigned(stage, 3) == ["model 3"]

    play(what)


def test_a_worker_that_waits_for_one_that_was_never_forked_is_not_forgotten(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(1, spec(1), "cpu", SIZE)
        switch(stage, 1, 2)
        stage.forked(2)
        await hello(stage, 2)
        stage.not_forked(1)
        await settle()
        await stage.hear_out()
        assert assigned(stage, 2) == ["model 2"]
        assert not ends_of(stage, 2)

    play(what)


@pytest.mark.parametrize("serves", [True, False])
def test_a_fork_that_never_comes_is_given_up_in_time(
    play: Callable[[Play], Stage], serves: bool
) -> None:
    """Where the first template has not come up yet, that time comes on top."""

    async def what(stage: Stage) -> None:
        stage.template.serves = serves
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        patience = CONFIG.hello_seconds + (0 if serves else CONFIG.template_seconds)
        await advance(patience - 1)
        assert not stage.template.given_up
        await advance(1)
        assert stage.template.given_up == [2]
        if serves:
            stage.not_forked(2)
        await settle()
        (gone,) = ends_of(stage, 2)
        assert isinstance(gone, events.Gone), "one worker's death, not a model that cannot load"
        assert error_of(gone) == "worker_unresponsive"
        assert 2 not in stage.processes

    play(what)


def test_a_fork_that_comes_too_late_is_ended_and_gone_once(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        await advance(CONFIG.hello_seconds)
        process = stage.forked(2)
        assert process.ends == [None]
        process.die()
        (gone,) = ends_of(stage, 2)
        assert error_of(gone) == "worker_unresponsive"

    play(what)


def test_without_a_template_a_new_interpreter_is_started(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.not_forked(2)
        assert stage.rows[2].start_method == "exec"
        await hello(stage, 2)
        assert assigned(stage, 2) == ["model 2"]
        assert "exec" in stage.supervisor.timings(2)

    play(what)


def test_a_forked_worker_that_dies_before_hello_is_gone_once(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.forked(2).die()
        await advance(100_000)
        (gone,) = ends_of(stage, 2)
        assert isinstance(gone, events.Gone)
        assert "starting" in gone.error.message

    play(what)


# What a template and a proof are worth.


def test_a_template_that_has_not_seen_the_files_is_made_anew(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        stage.forked(2)
        await hello(stage, 2)
        assert not stage.template.renewed
        await become_ready(stage, 2, stale_template=True, loaded_by={"unet": "from_pretrained"})
        (why,) = stage.template.renewed
        assert "model 2" in why
        assert stage.rows[2].loaded_by == {"unet": "from_pretrained"}

    play(what)


def test_the_proof_of_a_load_is_told_to_the_models_next_worker_and_to_no_other(
    play: Callable[[Play], Stage],
) -> None:
    async def what(stage: Stage) -> None:
        stage.memory.room = SIZE
        for epoch, name, proven in ((1, "a", ""), (2, "b", ""), (3, "a", "proof of 1")):
            model = wire.ModelSpec(name=name, architecture="sd15", path="/models")
            stage.supervisor.ensure_ready(epoch, model, "cpu", SIZE)
            stage.forked(epoch)
            await hello(stage, epoch)
            (assign,) = stage.told(who(epoch))
            assert isinstance(assign, wire.Assign)
            assert assign.proven == proven
            await become_ready(stage, epoch, fingerprint=f"proof of {epoch}")

    play(what)


def test_an_obituary_names_the_exit_of_the_forked_process(play: Callable[[Play], Stage]) -> None:
    async def what(stage: Stage) -> None:
        stage.supervisor.ensure_ready(2, spec(2), "cpu", SIZE)
        process = stage.forked(2)
        process.dead = True
        stage.template.orders[2].on_exit(ExitStatus(-11, "itself", ("last words",), 0))
        (gone,) = ends_of(stage, 2)
        assert isinstance(gone, events.Gone)
        assert "SIGSEGV" in gone.error.message
        assert "last words" in (gone.error.report or "")

    play(what)
