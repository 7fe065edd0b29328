"""The store against full disks, damaged files, and its own death at every point of a write."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from hermetic_daemon.migrations import MIGRATIONS, migrate
from hermetic_daemon.records import End, Record, Recovered
from hermetic_daemon.store import Store, set_aside
from hermetic_wire.codec import Frame
from hermetic_wire.errors import (
    DaemonRunning,
    ErrorBody,
    HermeticError,
    ResultDropped,
    StoreBroken,
    StoreUnavailable,
)
from hermetic_wire.generation import Image, Output, TextToImage, WorkerIdentity

T = TypeVar("T")
DEATH = ErrorBody(code="worker_died", message="it ended")
PIXELS = bytes(range(48))
OUTPUT = Output(images=(Image(width=4, height=4),), seeds=(2**64 - 1,), timings={"total": 0.5})
WORKER = WorkerIdentity(model="m", architecture="echo", epoch=3, pid=42, device="cpu")


def record(name: str, **more: Any) -> Record:
    task = TextToImage(prompts=("a",), seeds=(2**64 - 1,))
    plain: dict[str, Any] = {
        "app_name": "test", "uid": 7, "pid": 8, "model": "m", "task": task, "submitted_at": 1.0
    }  # fmt: skip
    return Record(id=name, **(plain | more))


def success() -> End:
    return End(state="succeeded", ended_at=2.0, output=OUTPUT, worker=WORKER)


class Answer(Generic[T]):
    """What a callback is told, once."""

    def __init__(self) -> None:
        self._told: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def take(self, told: T) -> None:
        self._told.set_result(told)

    async def get(self) -> T:
        async with asyncio.timeout(20):
            return await self._told


class Desk:
    """A store and answers that can be waited for."""

    def __init__(self, directory: Path) -> None:
        self.store = Store.open(directory)
        self.recovered = self.store.recover()
        self.store.start(asyncio.get_running_loop())

    async def add(self, *records: Record) -> list[HermeticError | None]:
        answers = [Answer[HermeticError | None]() for _ in records]
        for record, answer in zip(records, answers, strict=True):
            self.store.add(record, answer.take)
        return [await answer.get() for answer in answers]

    async def finish(self, name: str) -> HermeticError | None:
        answer = Answer[HermeticError | None]()
        self.store.finish(name, success(), (PIXELS,), answer.take)
        return await answer.get()

    async def cancel(self, name: str) -> HermeticError | None:
        answer = Answer[HermeticError | None]()
        self.store.ask_cancel(name, answer.take)
        return await answer.get()

    async def pixels(self, name: str) -> list[Frame] | HermeticError:
        answer = Answer[list[Frame] | HermeticError]()
        self.store.read_pixels(name, answer.take)
        return await answer.get()


def at_desk(directory: Path, work: Callable[[Desk], Coroutine[Any, Any, T]]) -> T:
    """One daemon's life."""

    async def run() -> T:
        desk = Desk(directory)
        try:
            return await work(desk)
        finally:
            desk.store.close()

    return asyncio.run(run())


def recovered(directory: Path) -> Recovered:
    async def look(desk: Desk) -> Recovered:
        return desk.recovered

    return at_desk(directory, look)


def test_what_was_accepted_is_there_again_to_the_bit(tmp_path: Path) -> None:
    full = record(
        "a", priority="high", expires_at=9.0, on_disconnect="cancel", keep_alive=-1.0,
        preview_seconds=0.5,
    )  # fmt: skip

    async def work(desk: Desk) -> None:
        assert await desk.add(full, record("b")) == [None, None]

    at_desk(tmp_path, work)
    assert recovered(tmp_path).jobs == (full, record("b"))


def test_a_result_is_there_again_with_its_pixels(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 3, 42, 1.5)
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

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.state, job.dropped) == ("succeeded", True)
    assert not list((tmp_path / "results").iterdir())


def test_a_forgotten_job_leaves_nothing(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 5, 42, 1.5)
        await desk.finish("a")
        desk.store.born(42, 1.0, 5)
        desk.store.reaped(42)
        desk.store.forget(["a"])
        await desk.add(record("a"))

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


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow: setrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_new_jobs_and_keeps_what_must_be_written(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 1, 42, 1.5)
        with full_disk():
            (refused,) = await desk.add(record("b"))
            assert isinstance(refused, StoreUnavailable)
            assert refused.retry_after
            assert isinstance(await desk.finish("a"), StoreUnavailable)
            assert desk.store.failure
            assert await desk.pixels("a") == [PIXELS], "from memory"
        assert await desk.add(record("c")) == [None]
        assert not desk.store.failure
        assert await desk.pixels("a") == [PIXELS]

    at_desk(tmp_path, work)
    found = {job.id: job.state for job in recovered(tmp_path).jobs}
    assert found == {"a": "succeeded", "c": "queued"}


def test_room_on_the_disk_is_noticed_without_a_new_job(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        with full_disk():
            await desk.add(record("a"))
        async with asyncio.timeout(20):
            while desk.store.failure:  # noqa: ASYNC110 - the thread sets no event
                await asyncio.sleep(0.01)

    at_desk(tmp_path, work)


def test_two_daemons_never_keep_their_jobs_in_one_place(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        with pytest.raises(DaemonRunning, match="pid"):
            Store.open(tmp_path)
        with pytest.raises(DaemonRunning):
            set_aside(tmp_path)

    at_desk(tmp_path, work)


def test_a_journal_that_is_none_is_refused_and_can_be_set_aside(tmp_path: Path) -> None:
    journal = tmp_path / "jobs.sqlite3"
    journal.write_bytes(b"no journal " * 1000)
    with pytest.raises(StoreBroken, match="--set-store-aside"):
        Store.open(tmp_path)
    kept = set_aside(tmp_path)
    assert (kept / "jobs.sqlite3").read_bytes().startswith(b"no journal")
    assert recovered(tmp_path) == Recovered()


def test_a_damaged_page_is_found_before_the_daemon_serves(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(*(record(f"job-{number}") for number in range(200)))

    at_desk(tmp_path, work)
    with (tmp_path / "jobs.sqlite3").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096 * 4)
    with pytest.raises(StoreBroken, match="--set-store-aside"):
        Store.open(tmp_path)


def test_a_journal_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    recovered(tmp_path)
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        connection.execute("INSERT INTO migrations VALUES ('9999_time_travel', 1.0)")
    connection.close()
    with pytest.raises(StoreBroken, match="9999_time_travel"):
        Store.open(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="HERMETIC_STATE_DIR"):
        Store.open(tmp_path / "file" / "state")


def test_nobody_else_may_read_the_prompts(tmp_path: Path) -> None:
    directory = tmp_path / "state"

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.finish("a")

    at_desk(directory, work)
    assert directory.stat().st_mode & 0o777 == 0o700
    for file in directory.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_a_migration_that_fails_half_way_leaves_nothing_of_itself() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE measured (model TEXT)")  # in the way of the first migration
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "jobs" not in tables
    assert connection.execute("SELECT count(*) FROM migrations").fetchone() == (0,)
    connection.execute("DROP TABLE measured")
    migrate(connection)
    migrate(connection)
    assert connection.execute("SELECT name FROM migrations").fetchall() == [
        (name,) for name, _ in MIGRATIONS
    ]
    connection.close()


LIFE = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import DEATH, Desk, record

async def life():
    desk = Desk(Path(sys.argv[1]))
    def acknowledged(what):
        print(what, flush=True)
    for number in range(3):
        name = f"job-{number}"
        (error,) = await desk.add(record(name))
        assert error is None
        acknowledged(f"added {name}")
        desk.store.begin(name, number + 1, 42, 1.5)
        desk.store.requeue(name, DEATH, death=True)
        desk.store.begin(name, number + 10, 42, 1.5)
        if number == 1:
            await desk.cancel(name)
            acknowledged(f"cancelled {name}")
        else:
            assert await desk.finish(name) is None
            acknowledged(f"finished {name}")
    desk.store.forget(["job-0"])
    await desk.add(record("last"))
    desk.store.close()

asyncio.run(life())
"""
POINTS = [
    f"{kind}.{when}_commit"
    for kind in ("add", "begin", "requeue", "cancel", "finish", "forget")
    for when in ("before", "after")
] + ["finish.before_spool", "finish.half_spooled", "finish.before_rename", "finish.after_rename"]


@pytest.mark.parametrize("point", POINTS)
def test_nothing_acknowledged_is_lost_when_the_daemon_dies(point: str, tmp_path: Path) -> None:
    life = subprocess.run(
        [sys.executable, "-c", LIFE, str(tmp_path), str(Path(__file__).parent)],
        env={"HERMETIC_FAULT": point, "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert life.returncode == -9, f"{point} was reached"

    async def look(desk: Desk) -> None:
        jobs = {job.id: job for job in desk.recovered.jobs}
        for line in life.stdout.splitlines():
            what, name = line.split()
            if point.startswith("forget") and name == "job-0":
                continue  # ended, and not to be kept
            job = jobs[name]
            assert job.cancel_asked or what != "cancelled"
            if what == "finished":
                assert job.state == "succeeded"
                assert await desk.pixels(name) == [PIXELS]
        for job in jobs.values():
            assert job.state in ("queued", "succeeded")

    at_desk(tmp_path, look)
