"""Any facts in any order, any disk, any death: what is found is what was asked, up to some point.

Facts are written in their order, so what the next daemon finds is what the first so many of them
come to; and none that was acknowledged is missing. Only the last one of a job may come a little
later, if nobody waits for it. A crash ends the thread that writes at one of
the points of `faults`, from where nothing more reaches the disk.
"""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from hermetic_daemon import faults
from hermetic_daemon.records import End, Record
from hermetic_daemon.store import SMALL_BYTES, Store
from hermetic_wire.codec import Frame
from hermetic_wire.errors import HermeticError, JobCancelled, StoreUnavailable, to_body
from unit.daemon.store_desk import DEATH, record, success

NAMES = st.sampled_from([f"job-{number}" for number in range(6)])
CHOICES = st.lists(st.integers(0, 999), min_size=1, max_size=10)
NEXT = {
    "queued": ("begin", "cancel", "fail"),
    "running": ("finish", "requeue", "park", "cancel", "fail"),
    "succeeded": ("drop", "forget"),
    "cancelled": ("forget",),
}
"""The facts that may follow, by state."""
PATIENT = ("begin", "drop", "forget")
"""Those that nobody waits for."""
CANCELLED = to_body(JobCancelled("as asked"))


def drawn(number: int) -> bytes:
    """Every other result is too large for the journal."""
    return bytes([number % 256]) * (100 if number % 2 else SMALL_BYTES + 1)


def in_short(pixels: bytes) -> str:
    """For comparing them, and to be read where they differ."""
    assert len(set(pixels)) <= 1
    size = "large" if len(pixels) > SMALL_BYTES else "small"
    return f"{size} {pixels[0]}" if pixels else ""


@dataclass
class Known:
    """A job, as far as the facts tell."""

    state: str = "queued"
    attempts: int = 0
    interruptions: int = 0
    deaths: int = 0
    cancel_asked: bool = False
    dropped: bool = False
    pixels: str = ""

    @classmethod
    def of(cls, found: Record, pixels: str) -> Known:
        return cls(
            found.state, found.attempts, found.interruptions, len(found.deaths),
            found.cancel_asked, found.dropped, pixels,
        )  # fmt: skip


@dataclass
class World:
    """What some facts come to."""

    jobs: dict[str, Known] = field(default_factory=dict)
    """By arrival."""
    paused: bool = False
    epoch: int = 0

    def apply(self, fact: tuple[str, str, int]) -> None:
        what, name, number = fact
        job = self.jobs.get(name, Known())
        match what:
            case "add":
                self.jobs[name] = job
            case "born":
                self.epoch = max(self.epoch, number)
            case "begin":
                job.state, job.attempts = "running", job.attempts + 1
            case "requeue" | "park":
                job.state, job.deaths = "queued", job.deaths + (what == "requeue")
            case "cancel":
                job.cancel_asked = True
            case "finish":
                job.state, job.pixels = "succeeded", in_short(drawn(number))
            case "fail":
                job.state = "cancelled"
            case "drop":
                job.dropped, job.pixels = True, ""
            case "forget":
                del self.jobs[name]
            case "pause":
                self.paused = bool(number)
            case _:
                raise AssertionError(what)

    def restart(self) -> None:
        for job in self.jobs.values():
            if job.state == "running":
                job.state, job.interruptions = "queued", job.interruptions + 1


class Crash:
    """Instead of `faults.reach`: ends the thread, and tells so."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.happened = False

    def reach(self, point: str) -> None:
        if self.happened:
            raise SystemExit
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.happened = True
                raise SystemExit


def only_crashes(other: Callable[[Any], Any]) -> Callable[[Any], None]:
    """For threads: a crash is on purpose, everything else is told to `other`."""

    def hook(arguments: Any) -> None:
        if arguments.exc_type is not SystemExit:
            other(arguments)

    return hook


class Durability(RuleBasedStateMachine):
    """A daemon's facts, its accidents, and its successors."""

    @initialize()
    def begin_with_nothing(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(threading, "excepthook", only_crashes(threading.excepthook))
        self.directory = tempfile.TemporaryDirectory()
        self.number = 0
        self.base, self.now = World(), World()
        self.asked: list[tuple[str, str, int]] = []
        self.certain = 0
        """So many of `asked` are known to be on the disk,"""
        self.flushed = 0
        """and of so many also those for which nobody waits."""
        self.failing = False
        self.open()

    def open(self) -> None:
        self.crash = Crash()
        self.patch.setattr(faults, "reach", self.crash.reach)
        self.store = Store.open(Path(self.directory.name))
        self.found = self.store.recover()
        self.store.start(self.loop)
        self.failing = False

    def ask(self, what: str, name: str = "", number: int = 0) -> None:
        """To be written some time."""
        self.asked.append((what, name, number))
        self.now.apply(self.asked[-1])

    async def outcome(self, told: Sequence[asyncio.Future[object]]) -> bool:
        """Whether all were told before the store died."""
        async with asyncio.timeout(20):
            while not all(future.done() for future in told):
                if not self.store._writer._thread.is_alive():
                    await asyncio.sleep(0)  # what it said last
                    return all(future.done() for future in told)
                await asyncio.wait(told, timeout=0.005)
        return True

    def settle(self) -> bool:
        """Whether the store has done all that it could, and lives."""
        told: asyncio.Future[object] = self.loop.create_future()
        self.store.read_pixels("nobody", told.set_result)
        if not self.loop.run_until_complete(self.outcome([told])):
            return False
        if not self.store.failure:
            self.certain = self.flushed = len(self.asked)
        return True

    # Facts.

    @rule(names=st.lists(NAMES, min_size=1, max_size=4))
    def add(self, names: list[str]) -> None:
        told: list[asyncio.Future[object]] = []
        for name in names:
            told.append(self.loop.create_future())
            self.store.add(record(name), told[-1].set_result)
        if not self.loop.run_until_complete(self.outcome(told)):
            for name in names:  # they may have been written, and may not
                if name not in self.now.jobs:
                    self.ask("add", name)
            self.die()
            return
        for name, future in zip(names, told, strict=True):
            error = future.result()
            if self.failing:
                assert isinstance(error, StoreUnavailable)
            elif name in self.now.jobs:
                assert isinstance(error, HermeticError)
                assert error.code == "invalid_parameter"
            else:
                assert error is None
                self.ask("add", name)
        if not self.failing:
            self.certain = len(self.asked)

    @rule(choices=CHOICES)
    def go_on(self, choices: list[int]) -> None:
        """Several facts at once, whatever can follow from those before."""
        for choice in choices:
            possible = [
                (what, name) for name, job in self.now.jobs.items() for what in NEXT[job.state]
            ]
            self.tell(*(possible[choice % len(possible)] if possible else ("pause", "")))

    def tell(self, what: str, name: str) -> None:
        self.number += 1
        match what:
            case "begin":
                self.store.born(self.number, 1.0, self.number)
                self.ask("born", "", self.number)
                self.store.begin(name, self.number, 42, 1.5)
            case "requeue":
                self.store.requeue(name, DEATH, death=True)
            case "park":
                self.store.requeue(name, None, death=False)
            case "cancel":
                self.store.ask_cancel(name, lambda _: None)
            case "finish":
                end, pixels = success(float(self.number)), drawn(self.number)
                self.store.finish(name, end, (pixels,), lambda _: None)
            case "fail":
                end = End(state="cancelled", ended_at=float(self.number), error=CANCELLED)
                self.store.finish(name, end, (), lambda _: None)
            case "drop":
                self.store.drop_pixels([name])
            case "forget":
                self.store.forget([name])
            case _:
                self.store.set_paused(bool(self.number % 2))
                self.ask("pause", "", self.number % 2)
                return
        self.ask(what, name, self.number)

    # Accidents.

    @rule(choices=CHOICES, names=st.lists(NAMES, min_size=1, max_size=2), room=st.booleans())
    def the_disk_is_full(self, choices: list[int], names: list[str], room: bool) -> None:
        """For a while, or until the daemon leaves."""
        if not self.settle():
            self.die()
            return
        self.store._journal.connection.execute("PRAGMA query_only = ON")
        self.failing = True
        self.go_on(choices)
        self.add(names)
        self.check_pixels()
        if not room:
            self.the_daemon_leaves()
            return
        self.store._journal.connection.execute("PRAGMA query_only = OFF")
        self.failing = False
        self.tell("pause", "")
        if not self.settle():
            self.die()

    @rule(points=st.integers(0, 8))
    def a_crash_is_near(self, points: int) -> None:
        self.crash.left = points

    @rule()
    def the_daemon_is_killed(self) -> None:
        self.crash.left = 0
        self.tell("pause", "")
        self.settle()
        self.die()

    @rule()
    def the_daemon_leaves(self) -> None:
        alive = self.settle()
        self.store.close()
        if alive and not self.crash.happened and not self.failing:
            self.certain = self.flushed = len(self.asked)
        self.succeed()

    def die(self) -> None:
        self.crash.left, self.crash.happened = 0, True
        self.store._writer.close()
        self.store._journal.close()
        with suppress(OSError):
            os.close(self.store._lock)
        self.succeed()

    # What is found.

    def succeed(self) -> None:
        """The next daemon."""
        self.open()
        found = World(
            {job.id: Known.of(job, self.pixels(job.id)) for job in self.found.jobs},
            self.found.paused,
            self.found.last_epoch,
        )
        self.base = self.agreed(found)
        self.now, self.asked = copy.deepcopy(self.base), []
        self.certain = self.flushed = 0
        self.check_order()

    def agreed(self, found: World) -> World:
        """The world of the first so many facts that is the one found."""
        world = copy.deepcopy(self.base)
        before: defaultdict[str, list[Known]] = defaultdict(list)
        """By job, what it was before each of its last facts for which nobody waits."""
        candidates = []
        for count in range(len(self.asked) + 1):
            if count >= self.certain:
                candidates.append(self.nearest(world, before, found))
                candidates[-1].restart()
                if candidates[-1] == found:
                    return candidates[-1]
            if count < len(self.asked):
                what, name, _ = self.asked[count]
                if what in PATIENT and count >= self.flushed:
                    before[name].append(copy.deepcopy(world.jobs[name]))
                else:
                    before.pop(name, None)
                world.apply(self.asked[count])
        raise AssertionError(f"found {found}, expected one of {candidates}")

    def nearest(self, world: World, before: Mapping[str, list[Known]], found: World) -> World:
        """The world, without those last facts that can be seen to be missing."""
        world = copy.deepcopy(world)
        for name, states in before.items():
            for state in states:
                restarted = World({name: copy.deepcopy(state)})
                restarted.restart()
                if found.jobs.get(name) == restarted.jobs[name]:
                    world.jobs[name] = copy.deepcopy(state)
        return world

    def pixels(self, name: str) -> str:
        told: asyncio.Future[list[Frame] | HermeticError] = self.loop.create_future()
        self.store.read_pixels(name, told.set_result)
        self.loop.run_until_complete(asyncio.wait_for(told, 20))
        found = told.result()
        return "" if isinstance(found, HermeticError) else in_short(b"".join(found))

    def check_order(self) -> None:
        jobs = list(self.found.jobs)
        alive = [job.id for job in jobs if job.ended_at is None]
        assert alive == [name for name, job in self.base.jobs.items() if job.state == "queued"]
        ends = [job.ended_at for job in jobs if job.ended_at is not None]
        assert ends == sorted(ends)
        files = {file.name for file in (Path(self.directory.name) / "results").iterdir()}
        assert files == {name for name, job in self.base.jobs.items() if "large" in job.pixels}

    @rule()
    def pixels_are_read(self) -> None:
        if self.settle():
            self.check_pixels()
        else:
            self.die()

    def check_pixels(self) -> None:
        """From memory while the disk does not take them."""
        for name, job in self.now.jobs.items():
            if job.state == "succeeded" and not (self.failing and job.dropped):
                assert self.pixels(name) == job.pixels

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.the_daemon_leaves()
        self.store.close()
        self.loop.close()
        self.patch.undo()
        self.directory.cleanup()


TestDurability = Durability.TestCase
TestDurability.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    # No shrinking: which facts share a transaction is up to the thread, so a smaller case may pass.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
