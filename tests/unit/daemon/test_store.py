"""What is written down is there again, to the bit, and nothing else is."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from hermetic_daemon import faults, recovery, writer
from hermetic_daemon.records import End, Measured
from hermetic_daemon.store import Store
from hermetic_wire.errors import HermeticError, InvalidParameter, ResultDropped
from hermetic_wire.generation import Load, Output
from unit.daemon.store_desk import (
    DEATH,
    OUTPUT,
    PIXELS,
    WORKER,
    Answer,
    Desk,
    Hold,
    at_desk,
    record,
    recovered,
    success,
)

FULL = 2
"""`PRAGMA synchronous`, as SQLite tells it."""


def test_what_was_accepted_is_there_again_to_the_bit(tmp_path: Path) -> None:
    full = record(
        "a", priority="high", expires_at=9.0, on_disconnect="cancel", keep_alive=-1.0,
        preview_seconds=0.5,
    )  # fmt: skip

    async def work(desk: Desk) -> None:
        assert await desk.add(full, record("b")) == [None, None]

    at_desk(tmp_path, work)
    assert recovered(tmp_path).jobs == (full, record("b"))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_result_is_there_again_with_its_pixels(tmp_path: Path, at_once: bool) -> None:
    """Its attempt is written with it, or before it."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 3, 42, 1.5)
        if not at_once:
            await desk.pixels("nobody's")
        assert await desk.finish("a") is None

    async def look(desk: Desk) -> None:
        (job,) = desk.recovered.jobs
        assert (job.state, job.attempts, job.output, job.worker) == (
            "succeeded", 1, OUTPUT, WORKER,
        )  # fmt: skip
        assert desk.recovered.last_epoch == 3
        assert await desk.pixels("a") == [PIXELS]

    at_desk(tmp_path, work)
    at_desk(tmp_path, look)


def test_what_was_running_waits_again_and_its_interruption_is_counted_once(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"), record("b"))
        desk.store.begin("a", 1, 42, 1.5)

    at_desk(tmp_path, work)
    for _ in range(2):
        first, second = recovered(tmp_path).jobs
        assert (first.state, first.attempts, first.interruptions) == ("queued", 1, 1)
        assert (second.state, second.attempts, second.interruptions) == ("queued", 0, 0)


def test_a_parked_job_was_not_interrupted(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 1, 42, 1.5)
        desk.store.requeue("a", None, death=False)

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.interruptions, job.deaths) == ("queued", 0, ())


def test_a_death_is_remembered_and_running_out_of_memory_is_none(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        for epoch, death in ((1, True), (2, False)):
            desk.store.begin("a", epoch, 42, 1.5)
            desk.store.requeue("a", DEATH, death=death)

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.deaths, job.attempts) == ((DEATH,), 2)


def test_a_cancel_that_was_acknowledged_is_not_forgotten(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.cancel("a")

    at_desk(tmp_path, work)
    assert recovered(tmp_path).jobs[0].cancel_asked


@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_result_without_its_pixels_is_none_and_runs_again(tmp_path: Path, damage: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.finish("a")

    at_desk(tmp_path, work)
    file = tmp_path / "results" / "a"
    file.write_bytes({"short": PIXELS[:-1], "changed": b"\xff" + PIXELS[1:]}.get(damage, b""))
    if damage == "gone":
        file.unlink()
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.output, job.worker, job.ended_at) == ("queued", None, None, None)
    assert not file.exists()


def test_a_half_written_file_and_one_of_nobody_are_swept(tmp_path: Path) -> None:
    recovered(tmp_path)
    for name in ("a.part", "stranger"):
        (tmp_path / "results" / name).write_bytes(PIXELS)
    recovered(tmp_path)
    assert not list((tmp_path / "results").iterdir())


def test_dropped_pixels_are_told_from_lost_ones(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.finish("a")
        desk.store.drop_pixels(["a"])
        assert isinstance(await desk.pixels("a"), ResultDropped)
        assert not list((tmp_path / "results").iterdir()), "no restart is needed for that"

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.dropped) == ("succeeded", True)
    assert not list((tmp_path / "results").iterdir())


def test_few_pixels_are_kept_in_the_journal(tmp_path: Path) -> None:
    few = [bytes(range(48)), b"", bytes(range(12))]

    async def work(desk: Desk) -> None:
        await desk.add(record("a"), record("b"))
        for name in "ab":
            assert await desk.finish(name, frames=few) is None
        desk.store.drop_pixels(["b"])
        assert not list((tmp_path / "results").iterdir())

    async def look(desk: Desk) -> None:
        assert [job.state for job in desk.recovered.jobs] == ["succeeded"] * 2
        assert await desk.pixels("a") == few
        assert isinstance(await desk.pixels("b"), ResultDropped)

    at_desk(tmp_path, work)
    at_desk(tmp_path, look)


def test_a_forgotten_job_leaves_nothing(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 5, 42, 1.5)
        await desk.finish("a")
        desk.store.born(42, 1.0, 5)
        desk.store.reaped(42)
        desk.store.forget(["a"])
        await desk.add(record("a"))
        assert not list((tmp_path / "results").iterdir()), "no restart is needed for that"

    at_desk(tmp_path, work)
    found = recovered(tmp_path)
    assert [job.state for job in found.jobs] == ["queued"]
    assert found.last_epoch == 5, "an epoch is never used again"
    assert not found.processes
    assert not list((tmp_path / "results").iterdir())


def test_one_id_that_is_in_use_takes_no_other_job_down(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        told = await desk.add(record("b"), record("a"), record("c"))
        assert [error and error.code for error in told] == [None, "invalid_parameter", None]

    at_desk(tmp_path, work)
    assert [job.id for job in recovered(tmp_path).jobs] == ["a", "b", "c"]


def test_nobody_else_may_read_the_prompts(tmp_path: Path) -> None:
    directory = tmp_path / "state"

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.finish("a")

    at_desk(directory, work)
    assert directory.stat().st_mode & 0o777 == 0o700
    for file in directory.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_what_belongs_to_no_job_is_there_again(tmp_path: Path) -> None:
    known = Measured(model="m", job_seconds=1.5, load_seconds=None, footprint_bytes=7)

    async def work(desk: Desk) -> None:
        desk.store.set_paused(True)
        desk.store.measure(Measured(model="m", job_seconds=9.0))
        desk.store.measure(known)
        desk.store.born(42, 1.25, 5)
        desk.store.born(43, 1.5, 6)
        desk.store.reaped(43)

    at_desk(tmp_path, work)
    found = recovered(tmp_path)
    assert (found.paused, found.measured, found.last_epoch) == (True, (known,), 6)
    assert found.processes == ((42, 1.25),)


def test_children_of_a_dead_daemon_are_named_until_a_daemon_has_ended_them(tmp_path: Path) -> None:
    """The next daemon may die just before it does so."""

    async def work(desk: Desk) -> None:
        desk.store.born(42, 1.25, 5)

    at_desk(tmp_path, work)
    for _ in range(2):
        store = Store.open(tmp_path)
        assert store.recover().processes == ((42, 1.25),)
        store.close()  # it has never served
    recovered(tmp_path)  # this one has
    assert not recovered(tmp_path).processes


def test_an_end_without_a_result_is_there_again(tmp_path: Path) -> None:
    failed = End(state="failed", ended_at=3.0, error=DEATH, worker=WORKER)

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 3, 42, 1.5)
        await desk.finish("a", failed)
        assert isinstance(await desk.pixels("a"), ResultDropped)

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.error, job.worker, job.output) == ("failed", DEATH, WORKER, None)


def test_a_job_that_only_loaded_is_done_without_pixels(tmp_path: Path) -> None:
    loaded = End(state="succeeded", ended_at=3.0, output=Output(timings={"load": 1.0}))

    async def work(desk: Desk) -> None:
        await desk.add(record("a", task=Load()))
        await desk.finish("a", loaded)

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.task, job.output) == ("succeeded", Load(), loaded.output)
    assert not list((tmp_path / "results").iterdir())


def test_open_jobs_come_by_arrival_and_ended_ones_by_their_end(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(*(record(name) for name in "abcdef"))
        for at, name in enumerate("ebd"):
            await desk.finish(name, success(float(at)))

    at_desk(tmp_path, work)
    assert "".join(job.id for job in recovered(tmp_path).jobs) == "acfebd"


def test_a_commit_gathers_where_many_waited_for_the_last_and_never_for_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=waits.append)

    async def work(desk: Desk) -> None:
        monkeypatch.setattr(writer, "time", clock)
        for name in "abc":
            assert await desk.add(record(name)) == [None]
        hold = Hold(monkeypatch)
        hold.begin(desk)
        together = asyncio.gather(*(desk.add(record(name)) for name in "def"))
        await asyncio.sleep(0)  # each has asked
        hold.release()
        assert await together == [[None]] * 3
        assert waits == [], "so far each came alone, or was held up"
        for name in "gh":
            assert await desk.add(record(name)) == [None]
        assert waits == [writer.GATHER_SECONDS]

    at_desk(tmp_path, work)


def test_many_that_wait_share_one_commit_and_each_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit holds the thread up until all the others have asked."""

    async def work(desk: Desk) -> None:
        hold = Hold(monkeypatch)
        hold.begin(desk)
        answers = [Answer[HermeticError | None]() for _ in range(100)]
        for number, answer in enumerate(answers):
            desk.store.add(record(f"job-{number}"), answer.take)
        hold.release()
        assert [await answer.get() for answer in answers] == [None] * 100
        assert hold.points.count("add.before_commit") == 1

    at_desk(tmp_path, work)
    assert len(recovered(tmp_path).jobs) == 100


def forced_or_not(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is committed from now on, and whether it waits for the disk."""
    found: list[tuple[str, bool]] = []

    def reach(point: str) -> None:
        kind, _, when = point.partition(".")
        if when == "before_commit":
            (level,) = desk.store._journal.connection.execute("PRAGMA synchronous").fetchone()
            found.append((kind, level == FULL))

    monkeypatch.setattr(faults, "reach", reach)
    return found


def test_only_a_success_may_be_lost_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job would just run again."""

    async def work(desk: Desk) -> None:
        await desk.pixels("nobody's")
        found = forced_or_not(desk, monkeypatch)
        await desk.add(record("a"), record("b"), record("c"))
        await desk.finish("a")
        await desk.finish("b", End(state="failed", ended_at=3.0, error=DEATH))
        desk.store.begin("c", 1, 42, 1.5)
        await desk.pixels("nobody's")
        await desk.cancel("c")
        await desk.finish("c")
        assert [commit for commit, _ in itertools.groupby(found)] == [
            ("add", True), ("finish", False), ("finish", True),
            ("begin", True), ("cancel", True), ("finish", False),
        ]  # fmt: skip
        del found[:]
        desk.store.forget(["a"])
        await desk.pixels("nobody's")
        desk.store.drop_pixels(["c"])
        await desk.pixels("nobody's")
        assert found == [("forget", True)] * 2, "their files are removed at once"

    at_desk(tmp_path, work)


def test_that_a_job_was_begun_is_not_forced_to_the_disk_with_its_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is held up until both were asked."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        hold = Hold(monkeypatch)
        hold.begin(desk)
        desk.store.begin("a", 1, 42, 1.5)
        answer = Answer[HermeticError | None]()
        desk.store.finish("a", success(), (PIXELS,), answer.take)
        found = forced_or_not(desk, monkeypatch)
        hold.release()
        assert await answer.get() is None
        assert {("begin", False), ("finish", False)} <= set(found)

    at_desk(tmp_path, work)


def test_a_job_that_is_forgotten_at_once_is_so_after_a_loss_of_power_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is held up until both were asked."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        hold = Hold(monkeypatch)
        hold.begin(desk)
        answer = Answer[HermeticError | None]()
        desk.store.finish("a", success(), (PIXELS,), answer.take)
        desk.store.forget(["a"])
        looked = asyncio.create_task(desk.pixels("a"))
        await asyncio.sleep(0)  # it has asked
        found = forced_or_not(desk, monkeypatch)
        hold.release()
        await looked
        assert {("finish", True), ("forget", True)} <= set(found)

    at_desk(tmp_path, work)


def test_a_job_may_begin_while_the_disk_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is not over before the job was handed on; one whose id is in use never is."""
    begun = threading.Event()

    def hold(point: str) -> None:
        if point == "add.after_commit":
            assert begun.wait(20)

    async def work(desk: Desk) -> None:
        monkeypatch.setattr(faults, "reach", hold)
        told: list[object] = []

        def begin() -> None:
            told.append("begun")
            begun.set()

        desk.store.add(record("a"), told.append, begin)
        desk.store.add(record("a"), told.append, lambda: told.append("begun twice"))
        await desk.pixels("nobody's")
        assert told[:2] == ["begun", None]
        assert isinstance(told[2], InvalidParameter)
        assert len(told) == 3

    at_desk(tmp_path, work)


def test_an_app_without_jobs_is_forgotten_when_there_are_very_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "KEEP_APPS", 2)

    async def work(desk: Desk) -> None:
        for number in range(5):
            name = f"app-{number}"
            await desk.add(record(name, app_name=name, submitted_at=float(number)))
        await desk.finish("app-1")
        desk.store.forget([f"app-{number}" for number in range(1, 5)])

    at_desk(tmp_path, work)
    assert [job.app_name for job in recovered(tmp_path).jobs] == ["app-0"]
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as journal:
        rows = journal.execute("SELECT name, last_seen, jobs FROM apps ORDER BY name").fetchall()
    assert rows == [("app-0", 0.0, 1), ("app-3", 3.0, 1), ("app-4", 4.0, 1)]


def test_an_asker_who_raises_keeps_nobody_from_being_told(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: raised.append(context["exception"])
        )

        def rude(_: HermeticError | None) -> None:
            raise ZeroDivisionError

        desk.store.add(record("a"), rude)
        assert await desk.add(record("b")) == [None]
        assert [type(error) for error in raised] == [ZeroDivisionError]

    at_desk(tmp_path, work)
