"""The daemon's side of the template, against real processes that serve, refuse, hang and die.

They are `fakes/quick_template.py`: the real socket and real forks, without torch. Time is put
forward, not waited for.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hermetic_daemon import template
from hermetic_daemon.config import WorkerSection
from hermetic_daemon.process import ChildProcess, ExitStatus
from hermetic_daemon.strays import become_subreaper
from hermetic_daemon.template import Template
from hermetic_wire.template import Setup
from support.clock import advance, eventually, settle, timed
from support.processes import gone, until

QUICK = Path(__file__).parent.parent.parent / "fakes" / "quick_template.py"
TOKEN = "0123456789abcdef" * 2
PAUSE, LONGEST = 1000.0, 4000.0
"""Seconds: far longer than any machine stalls, and nobody waits for them."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template is started again only when the test says that it is time."""
    monkeypatch.setattr(template, "FIRST_PAUSE", PAUSE)
    monkeypatch.setattr(template, "LONGEST_PAUSE", LONGEST)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """This process adopts what templates fork, as the daemon does; nothing outlives the test."""
    descriptors = set(os.listdir("/proc/self/fd"))
    children = {child.pid for child in psutil.Process().children()}
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0)  # PR_SET_CHILD_SUBREAPER
    ours = [child for child in psutil.Process().children() if child.pid not in children]
    left = [child for child in ours if child.status() != psutil.STATUS_ZOMBIE]
    for child in ours:  # orphans of killed templates; to reap them is for Strays
        child.kill()
        os.waitpid(child.pid, 0)
    assert not left, f"processes left behind: {left}"
    assert set(os.listdir("/proc/self/fd")) == descriptors


@dataclass
class Asked:
    """A worker that was asked for, and what came of it."""

    epoch: int
    told: list[ChildProcess | None] = field(default_factory=list)
    exits: list[ExitStatus] = field(default_factory=list)

    @property
    def process(self) -> ChildProcess:
        """The worker that was forked."""
        (process,) = self.told
        assert process is not None
        return process

    async def exit(self) -> ExitStatus:
        """How the worker ended, once it has."""
        await eventually(lambda: bool(self.exits))
        (exit,) = self.exits
        return exit


class Scene:
    """A Template whose processes read their flags anew at each start."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._flags = directory / "flags"
        self._gate = directory / "gate"
        self._gate.touch()
        self.behave()
        self.starts = 0
        settings = {"template_command": (sys.executable, str(QUICK), f"@{self._flags}")} | settings
        self.template = Template(WorkerSection(**settings), self._setup)

    def _setup(self) -> Setup:
        self.starts += 1
        return Setup(models=(), device="cpu", endpoint=f"set-up {self.starts}")

    def behave(self, *flags: str) -> None:
        """How those that are started from now on behave."""
        self._flags.write_text("".join(f"{flag}\n" for flag in flags))

    @contextmanager
    def held_back(self, *flags: str) -> Iterator[None]:
        """Those that are started meanwhile become ready only at the end of this."""
        self.behave(f"--gate={self._gate}", *flags)
        with self._gate.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def ask(self, epoch: int = 1) -> Asked:
        asked = Asked(epoch)
        self.template.fork(epoch, TOKEN, asked.exits.append, asked.told.append)
        return asked

    @property
    def state(self) -> str:
        return self.template.status().state

    @property
    def pid(self) -> int:
        return self.template.status().pid

    async def serve(self) -> int:
        """Have one that serves; returns its pid."""
        self.template.start()
        await self.becomes("serving")
        return self.pid

    async def becomes(self, state: str) -> None:
        await eventually(lambda: self.state == state)

    async def kill(self) -> None:
        """SIGKILL from outside, and its end noticed."""
        os.kill(self.pid, signal.SIGKILL)
        await self.becomes("waiting")


def children() -> set[int]:
    """The children of this process that live."""
    return {one.pid for one in psutil.Process().children() if not gone(one.pid)}


Play = Callable[[Scene], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Runs a coroutine function on a scene, and closes that."""

    async def run(what: Play, settings: dict[str, Any]) -> None:
        scene = Scene(tmp_path, **settings)
        try:
            await what(scene)
        finally:
            await scene.template.close()
        await settle()

    return lambda what, **settings: timed(run(what, settings))


# Workers.


@pytest.mark.parametrize(
    ("child", "code"), [("exit=0", 0), ("exit=7", 7), ("signal=9", -9), ("signal=11", -11)]
)
def test_a_forked_worker_that_dies_at_once_is_reaped_with_its_own_exit_status(
    play: Callable[..., None], child: str, code: int
) -> None:
    """It may die before it was adopted, and before its pidfd has arrived."""

    async def what(scene: Scene) -> None:
        scene.behave(f"--child={child}")
        await scene.serve()
        for epoch in range(1, 6):
            asked = scene.ask(epoch)
            exit = await asked.exit()
            assert (exit.code, exit.rung) == (code, "itself")
            assert exit.stderr == (f"{epoch} {TOKEN}",)
            assert gone(asked.process.pid)

    play(what)


def test_a_forked_worker_is_our_own_child_and_climbs_the_kill_ladder(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        await scene.serve()
        asked = scene.ask()
        await eventually(lambda: bool(asked.told))
        worker = psutil.Process(asked.process.pid)
        await eventually(lambda: worker.ppid() == os.getpid())
        asked.process.end(None)
        exit = await asked.exit()
        assert (exit.code, exit.rung) == (-signal.SIGKILL, "kill")

    play(what)


def test_a_worker_outlives_its_template(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        await scene.serve()
        asked = scene.ask()
        await eventually(lambda: bool(asked.told))
        pid = asked.process.pid
        await eventually(lambda: os.getpgid(pid) == pid)  # till then it is of the template's group
        await scene.kill()
        assert not gone(pid)
        asked.process.end(None)
        assert (await asked.exit()).rung == "kill"

    play(what)


def test_what_is_asked_while_it_starts_waits_and_is_forked_then(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        with scene.held_back("--child=exit=3"):
            scene.template.start()
            both = [scene.ask(epoch) for epoch in (1, 2)]
            await settle()
            assert scene.state == "starting"
            assert not any(asked.told for asked in both)
            assert not scene.template.expecting, "nobody has been asked yet"
        assert [(await asked.exit()).code for asked in both] == [3, 3]
        assert scene.template.status().forks == 2

    play(what)


def test_what_is_withdrawn_while_it_starts_is_told_at_once_and_never_forked(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        with scene.held_back("--child=exit=3"):
            scene.template.start()
            withdrawn, kept = (scene.ask(epoch) for epoch in (1, 2))
            scene.template.withdraw(1)
            scene.template.withdraw(7)
            assert (withdrawn.told, kept.told) == ([None], [])
        assert (await kept.exit()).code == 3
        assert withdrawn.told == [None]
        assert scene.template.status().forks == 1

    play(what)


def test_what_is_withdrawn_from_one_that_was_asked_still_comes(play: Callable[..., None]) -> None:
    """Nobody could take the request back: whoever wanted it ends it when it comes."""

    async def what(scene: Scene) -> None:
        scene.behave("--child=exit=3")
        await scene.serve()
        asked = scene.ask()
        scene.template.withdraw(asked.epoch)
        assert (await asked.exit()).code == 3

    play(what)


def test_all_that_is_asked_at_once_is_forked(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--child=exit=0")
        await scene.serve()
        many = [scene.ask(epoch) for epoch in range(1, 21)]
        assert scene.template.expecting
        for asked in many:
            assert (await asked.exit()).stderr == (f"{asked.epoch} {TOKEN}",)
        assert not scene.template.expecting

    play(what)


# Those that are of no use.


def test_one_that_refuses_itself_says_why_and_is_not_started_again(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        with scene.held_back("--refuse=two threads"):
            scene.template.start()
            early = scene.ask(1)
        await scene.becomes("refused")
        assert scene.template.status().reason == "two threads"
        await eventually(lambda: scene.pid == 0)
        assert early.told == [None]
        assert scene.ask(2).told == [None]
        await advance(10 * LONGEST)
        assert (scene.starts, scene.state) == (1, "refused")

    play(what)


def test_one_that_refused_is_made_again_when_something_has_changed(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--refuse=two threads")
        scene.template.start()
        await scene.becomes("refused")
        scene.behave("--child=exit=0")
        scene.template.renew("a test")
        await scene.becomes("serving")
        assert scene.template.status().reason == ""
        assert (await scene.ask().exit()).code == 0

    play(what)


def test_one_that_dies_is_started_again_more_patiently_each_time(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--stillborn")
        scene.template.start()
        for number, pause in enumerate([PAUSE, 2 * PAUSE, 4 * PAUSE, LONGEST, LONGEST], 1):
            await scene.becomes("waiting")
            assert "status 9" in scene.template.status().reason
            assert scene.ask(number).told == [None]
            await advance(0.9 * pause)
            assert scene.starts == number
            await advance(0.1 * pause)
            assert scene.starts == number + 1

    play(what)


def test_one_that_served_and_was_killed_is_soon_started_again(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--stillborn")
        scene.template.start()
        for pause in (PAUSE, 2 * PAUSE):
            await scene.becomes("waiting")
            scene.behave()
            await advance(pause)
            scene.behave("--stillborn")
        await scene.becomes("waiting")
        scene.behave("--child=exit=0")
        await advance(4 * PAUSE)
        await scene.becomes("serving")
        await scene.kill()
        assert "SIGKILL" in scene.template.status().reason
        await advance(PAUSE)
        await scene.becomes("serving")
        assert (await scene.ask().exit()).code == 0

    play(what)


def test_what_was_asked_of_one_that_dies_is_told(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--hang")
        await scene.serve()
        pending = [scene.ask(epoch) for epoch in (1, 2)]
        await settle()
        assert not any(asked.told for asked in pending)
        os.kill(scene.pid, signal.SIGKILL)
        unnoticed = scene.ask(3)
        await scene.becomes("waiting")
        assert [asked.told for asked in (*pending, unnoticed)] == [[None]] * 3
        assert not scene.template.expecting

    play(what)


def test_one_that_dies_after_its_last_fork_leaves_its_workers_to_us(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--forks=2", "--child=exit=4")
        await scene.serve()
        first, second, third = (scene.ask(epoch) for epoch in (1, 2, 3))
        assert [(await asked.exit()).code for asked in (first, second)] == [4, 4]
        await scene.becomes("waiting")
        assert third.told == [None]

    play(what)


def test_one_that_dies_with_a_fork_untold_costs_nobody_a_worker(
    play: Callable[..., None],
) -> None:
    """The worker that nobody was told of finds the pipe closed, and ends."""

    async def what(scene: Scene) -> None:
        scene.behave("--untold")
        await scene.serve()
        asked = scene.ask()
        await scene.becomes("waiting")
        assert asked.told == [None]
        await eventually(lambda: not children())

    play(what)


def test_one_that_never_becomes_ready_is_given_up_and_killed(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--mute")
        scene.template.start()
        asked = scene.ask()
        pid = scene.pid
        await advance(119)
        assert (scene.state, asked.told) == ("starting", [])
        await advance(1)
        await scene.becomes("waiting")
        assert "120 s" in scene.template.status().reason
        assert asked.told == [None]
        assert gone(pid)

    play(what, template_seconds=120.0)


def test_one_that_hangs_at_a_fork_is_killed_once_it_is_given_up(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--hang")
        pid = await scene.serve()
        asked = scene.ask(5)
        scene.template.give_up(4)
        await settle()
        assert not asked.told, "another epoch has nothing to do with it"
        scene.template.give_up(5)
        await scene.becomes("waiting")
        assert "does not fork" in scene.template.status().reason
        assert asked.told == [None]
        assert gone(pid)

    play(what)


@pytest.mark.parametrize("packets", [1, 5])
def test_one_that_sends_nonsense_is_killed(play: Callable[..., None], packets: int) -> None:
    async def what(scene: Scene) -> None:
        scene.behave(f"--garbage={packets}")
        scene.template.start()
        asked = scene.ask()
        pid = scene.pid
        until(lambda: gone(pid), 20, "its death and its last words are there to be read at once")
        await scene.becomes("waiting")
        assert asked.told == [None]
        scene.behave("--child=exit=0")
        await advance(PAUSE)
        assert (await scene.ask(2).exit()).code == 0

    play(what)


@pytest.mark.parametrize("flag", ["--stranger", "--bare"])
def test_one_that_forks_what_was_not_asked_is_killed_and_the_asked_is_told(
    play: Callable[..., None], flag: str
) -> None:
    """Without a descriptor it comes where the daemon itself has none left to take it with."""

    async def what(scene: Scene) -> None:
        scene.behave(flag)
        pid = await scene.serve()
        asked = scene.ask()
        await scene.becomes("waiting")
        assert asked.told == [None]
        assert gone(pid)
        await eventually(lambda: not children())

    play(what)


def test_a_program_that_is_not_there_is_told_and_tried_again(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.template.start()
        assert scene.ask().told == [None]
        assert scene.state == "waiting"
        assert "/nonexistent" in scene.template.status().reason
        await advance(PAUSE)
        assert scene.starts == 2

    play(what, template_command=("/nonexistent/python",))


# One after the other.


def test_the_present_one_serves_until_the_next_is_ready(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--child=exit=1")
        old = await scene.serve()
        with scene.held_back("--child=exit=2"):
            scene.template.renew("a test")
            assert (await scene.ask(1).exit()).code == 1
            assert (scene.pid, scene.state) == (old, "serving")
        await eventually(lambda: scene.pid not in (0, old))
        assert scene.template.status().skeletons == {"endpoint": "set-up 2"}
        assert (await scene.ask(2).exit()).code == 2
        await eventually(lambda: gone(old))

    play(what)


def test_the_present_one_goes_on_where_the_next_refuses_itself(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        old = await scene.serve()
        with scene.held_back("--refuse=two threads"):
            scene.template.renew("a test")
            (new,) = children() - {old}
        await eventually(lambda: gone(new))
        await advance(10 * LONGEST)
        assert (scene.state, scene.pid, scene.starts) == ("serving", old, 2)

    play(what)


def test_the_present_one_goes_on_where_the_next_dies_and_that_is_tried_again(
    play: Callable[..., None],
) -> None:
    async def what(scene: Scene) -> None:
        old = await scene.serve()
        with scene.held_back("--stillborn"):
            scene.template.renew("a test")
            (new,) = children() - {old}
        await eventually(lambda: gone(new))
        assert (scene.state, scene.pid) == ("serving", old)
        scene.behave()
        await settle()
        await advance(PAUSE)
        await eventually(lambda: scene.pid not in (0, old))

    play(what)


def test_a_renewal_overtaken_by_another_is_dropped(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        with scene.held_back():
            scene.template.start()
            asked = scene.ask()
            for _ in range(3):
                scene.template.renew("a test")
            assert scene.starts == 4
        await eventually(lambda: bool(asked.told))
        assert scene.template.status().skeletons == {"endpoint": "set-up 4"}
        asked.process.end(None)
        await asked.exit()
        await eventually(lambda: children() == {scene.pid})

    play(what)


def test_one_that_is_replaced_still_gives_what_it_was_asked_for(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--hang")
        old = await scene.serve()
        asked = scene.ask(1)
        scene.behave()
        scene.template.renew("a test")
        await eventually(lambda: scene.pid not in (0, old))
        assert not gone(old)
        assert not asked.told
        assert scene.template.expecting
        scene.template.give_up(1)
        await eventually(lambda: bool(asked.told))
        assert asked.told == [None]
        assert gone(old)
        assert scene.state == "serving"

    play(what)


def test_after_its_share_of_forks_another_takes_over(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.behave("--child=exit=0")
        first = await scene.serve()
        await scene.ask(1).exit()
        await scene.ask(2).exit()
        assert (scene.pid, scene.starts) == (first, 1)
        await scene.ask(3).exit()
        await eventually(lambda: scene.pid not in (0, first))
        assert scene.starts == 2
        assert (await scene.ask(4).exit()).code == 0
        await eventually(lambda: gone(first))

    play(what, template_forks=3)


# The end.


def test_closing_ends_the_serving_the_starting_and_the_hanging(tmp_path: Path) -> None:
    async def run() -> None:
        scene = Scene(tmp_path)
        scene.behave("--hang")
        await scene.serve()
        asked = scene.ask()
        scene.behave()
        scene.template.renew("a test")
        await eventually(lambda: scene.template.status().skeletons == {"endpoint": "set-up 2"})
        scene.behave("--mute")
        scene.template.renew("a test")
        pids = children()
        assert len(pids) == 3
        await scene.template.close()
        assert all(gone(pid) for pid in pids)
        assert asked.told == [None]
        scene.template.renew("too late")
        scene.template.start()
        await advance(10 * LONGEST)
        assert scene.starts == 3

    timed(run())


def test_closing_while_a_restart_is_due_ends_that_too(tmp_path: Path) -> None:
    async def run() -> None:
        scene = Scene(tmp_path)
        await scene.serve()
        await scene.kill()
        await scene.template.close()
        await advance(10 * LONGEST)
        assert scene.starts == 1

    timed(run())


def test_where_workers_are_not_to_be_forked_nothing_is_started(play: Callable[..., None]) -> None:
    async def what(scene: Scene) -> None:
        scene.template.start()
        scene.template.renew("a test")
        assert (scene.state, scene.starts) == ("off", 0)
        assert scene.ask().told == [None]
        assert not scene.template.ready

    play(what, start_method="exec")


def test_one_that_ended_by_itself_is_not_signalled_again(play: Callable[..., None]) -> None:
    """Its number may be somebody else's by then."""

    async def what(scene: Scene) -> None:
        await scene.serve()
        await scene.kill()
        scene.template.give_up(1)
        await scene.template.close()

    play(what)
