"""The store against full disks, damaged files, and whoever else wants its place."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from hermetic_daemon import faults, writer
from hermetic_daemon.records import End, Recovered
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
from hermetic_wire.generation import Output
from unit.daemon.store_desk import (
    PIXELS,
    WORKER,
    Answer,
    Desk,
    Hold,
    at_desk,
    full_disk,
    record,
    recovered,
)

UNWRITABLE = End(state="succeeded", ended_at=2.0, output=Output(seeds=(1 << 70,)), worker=WORKER)
"""No number of msgpack is so large."""


async def written_again(desk: Desk) -> None:
    """Until the store has noticed that there is room on the disk."""
    async with asyncio.timeout(20):
        while desk.store.failure:  # noqa: ASYNC110 - the thread sets no event
            await asyncio.sleep(0.01)


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
            (error,) = await desk.add(record("a"))
            assert isinstance(error, StoreUnavailable)
        await written_again(desk)

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


def test_a_place_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="HERMETIC_STATE_DIR"):
        Store.open(tmp_path / "file" / "state")


def test_a_journal_that_may_not_grow_refuses_and_keeps_until_it_may(tmp_path: Path) -> None:
    """SQLITE_FULL, as SQLite says it: by then it has rolled the transaction back itself."""
    long = "more than fits into the pages that are there " * 10_000
    end = End(state="failed", ended_at=2.0, error=ErrorBody(code="generation_failed", message=long))

    async def work(desk: Desk) -> None:
        connection = desk.store._journal.connection
        await desk.add(record("a"), record("b"))
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        assert isinstance(await desk.finish("a", end), StoreUnavailable)
        desk.store.begin("b", 1, 42, 1.5)
        (refused,) = await desk.add(record("c"))
        assert isinstance(refused, StoreUnavailable), "it may not overtake what must be written"
        assert "full" in refused.message
        connection.execute(f"PRAGMA max_page_count = {1 << 30}")
        assert await desk.add(record("d")) == [None]

    at_desk(tmp_path, work)
    jobs = {job.id: job for job in recovered(tmp_path).jobs}
    assert set(jobs) == {"a", "b", "d"}
    assert jobs["a"].error == end.error
    assert jobs["b"].interruptions == 1, "its begin was written, after all"


def test_what_must_be_written_is_written_when_the_daemon_leaves(tmp_path: Path) -> None:
    """Nobody asks for anything else once there is room again."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        with full_disk():
            assert isinstance(await desk.finish("a"), StoreUnavailable)

    at_desk(tmp_path, work)
    assert [job.state for job in recovered(tmp_path).jobs] == ["succeeded"]


def test_a_full_disk_is_not_filled_with_unfinished_files(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(PIXELS) // 2, hard))
        try:
            assert isinstance(await desk.finish("a"), StoreUnavailable)
            assert not list((tmp_path / "results").iterdir())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    at_desk(tmp_path, work)


def test_pixels_are_written_once_however_often_the_journal_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled: list[str] = []
    monkeypatch.setattr(faults, "reach", spooled.append)

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store._journal.connection.execute("PRAGMA query_only = ON")
        assert isinstance(await desk.finish("a"), StoreUnavailable)
        for _ in range(3):
            assert isinstance((await desk.add(record("b")))[0], StoreUnavailable)
        desk.store._journal.connection.execute("PRAGMA query_only = OFF")
        assert await desk.add(record("b")) == [None]
        assert spooled.count("finish.before_spool") == 1

    at_desk(tmp_path, work)


def test_a_fact_that_can_never_be_written_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line of log is its price. A job that was refused may have been begun all the same."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        desk.store.begin("a", 1, 42, 1.5)
        desk.store.begin("unknown", 2, 42, 1.5)
        (oversized,) = await desk.add(record("b", pid=1 << 70))
        assert oversized is not None
        assert await desk.finish("a") is None
        assert not desk.store.failure

    at_desk(tmp_path, work)
    assert [(job.id, job.state) for job in recovered(tmp_path).jobs] == [("a", "succeeded")]
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR]


def test_a_fact_that_can_never_be_written_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nothing else is left from a full disk: the store finds out that there is room."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        answer = Answer[HermeticError | None]()
        with full_disk():
            desk.store.finish("a", UNWRITABLE, (PIXELS,), answer.take)
            assert isinstance(await answer.get(), StoreUnavailable)
        await written_again(desk)

    at_desk(tmp_path, work)
    assert caplog.text.count("cannot be written: ") == 1
    assert caplog.text.count("what is known of a job (finish) cannot be written") == 1


def test_the_pixels_of_an_end_that_can_never_be_written_are_not_kept(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        answer = Answer[HermeticError | None]()
        desk.store.finish("a", UNWRITABLE, (PIXELS,), answer.take)
        assert await answer.get() is not None
        assert isinstance(await desk.pixels("a"), ResultDropped)
        assert not list((tmp_path / "results").iterdir())

    at_desk(tmp_path, work)
    assert [job.state for job in recovered(tmp_path).jobs] == ["queued"]


def test_after_a_failed_commit_no_job_is_begun_in_advance(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        begun: list[str] = []

        async def refused(name: str) -> None:
            answer = Answer[HermeticError | None]()
            desk.store.add(record(name), answer.take, lambda: begun.append(name))
            assert isinstance(await answer.get(), StoreUnavailable)

        with full_disk():
            await refused("a")
            await refused("b")
        assert begun == ["a"]

    at_desk(tmp_path, work)
    assert not recovered(tmp_path).jobs


def test_a_job_that_was_refused_and_comes_again_has_not_begun(tmp_path: Path) -> None:
    """Nobody waits for its begin, which goes with whatever is said of that id next."""

    async def work(desk: Desk) -> None:
        desk.store.begin("a", 1, 42, 1.5)
        assert await desk.add(record("a")) == [None]
        desk.store.begin("a", 2, 42, 1.5)
        (error,) = await desk.add(record("a"))
        assert error is not None, "another attempt is taken from nobody"

    at_desk(tmp_path, work)
    (job,) = recovered(tmp_path).jobs
    assert (job.attempts, job.interruptions) == (1, 1)


def test_the_end_of_a_job_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    """It had begun before it could not be written down."""

    async def work(desk: Desk) -> None:
        desk.store.begin("refused", 1, 42, 1.5)
        failure = await desk.finish("refused")
        assert failure is not None
        assert failure.code == "unknown_job"
        assert not list((tmp_path / "results").iterdir())
        assert not desk.store.failure

    at_desk(tmp_path, work)
    assert not recovered(tmp_path).jobs


def test_one_id_asked_for_many_times_at_once_is_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one transaction: the others are refused without it being done over for each."""

    async def work(desk: Desk) -> None:
        hold = Hold(monkeypatch)
        hold.begin(desk)
        answers = [Answer[HermeticError | None]() for _ in range(1000)]
        for answer in answers:
            desk.store.add(record("a"), answer.take)
        hold.release()
        told = [await answer.get() for answer in answers]
        assert [error and error.code for error in told] == [None] + ["invalid_parameter"] * 999

    at_desk(tmp_path, work)
    assert len(recovered(tmp_path).jobs) == 1


def test_a_tidied_directory_of_results_costs_what_was_in_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    async def work(desk: Desk) -> None:
        await desk.add(record("a"), record("b"))
        await desk.finish("a")
        (tmp_path / "results" / "a").unlink()
        (tmp_path / "results").rmdir()
        assert isinstance(await desk.pixels("a"), ResultDropped)
        assert await desk.finish("b") is None
        assert await desk.pixels("b") == [PIXELS]

    at_desk(tmp_path, work)
    found = {job.id: job.state for job in recovered(tmp_path).jobs}
    assert found == {"a": "queued", "b": "succeeded"}


def test_pixels_that_cannot_be_read_or_removed_end_nothing_but_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory in the file's place: even root can neither read nor unlink it."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))
        await desk.finish("a")
        (tmp_path / "results" / "a").unlink()
        (tmp_path / "results" / "a").mkdir()
        lost: list[Frame] | HermeticError = await desk.pixels("a")
        assert isinstance(lost, ResultDropped)
        assert "cannot be read" in lost.message
        desk.store.drop_pixels(["a"])
        assert await desk.add(record("b")) == [None]

    at_desk(tmp_path, work)
    assert [job.id for job in recovered(tmp_path).jobs] == ["b", "a"]
    assert "could not be removed" in caplog.text
    assert "does not belong there" in caplog.text


def test_a_damaged_fact_is_refused_in_words_and_can_be_set_aside(tmp_path: Path) -> None:
    """Pages are whole, what is on them is not: SQLite cannot notice."""

    async def work(desk: Desk) -> None:
        await desk.add(record("a"))

    at_desk(tmp_path, work)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as journal:
        journal.execute("UPDATE jobs SET task = x'c1'")
    store = Store.open(tmp_path)
    with pytest.raises(StoreBroken, match="--set-store-aside"):
        store.recover()
    store.close()
    set_aside(tmp_path)
    assert recovered(tmp_path) == Recovered()


def test_a_journal_that_lacks_a_table_is_broken_not_full(tmp_path: Path) -> None:
    recovered(tmp_path)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as journal:
        journal.execute("DROP TABLE results")
    store = Store.open(tmp_path)
    with pytest.raises(StoreBroken, match="no such table"):
        store.recover()
    store.close()


def test_journals_set_aside_in_one_second_are_all_kept(tmp_path: Path) -> None:
    recovered(tmp_path)
    first = set_aside(tmp_path)
    recovered(tmp_path)
    second = set_aside(tmp_path)
    assert first != second
    for kept in (first, second):
        assert (kept / "jobs.sqlite3").exists()
        assert (kept / "results").is_dir()


def test_a_full_disk_at_the_start_is_refused_in_words_and_leaves_no_lock(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StoreUnavailable, match="Make room"):
        Store.open(tmp_path)
    assert recovered(tmp_path) == Recovered()


def test_a_store_that_was_opened_and_refused_leaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"no journal " * 1000)
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        with pytest.raises(StoreBroken):
            Store.open(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_disk_that_does_not_answer_holds_the_daemon_up_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else gets the journal before whoever still writes to it has ended."""
    monkeypatch.setattr(writer, "CLOSE_SECONDS", 0.05)
    answers = threading.Event()
    monkeypatch.setattr(faults, "reach", lambda _: answers.wait(20))

    async def work(desk: Desk) -> Desk:
        desk.store.set_paused(True)
        return desk

    desk = at_desk(tmp_path, work)
    with pytest.raises(DaemonRunning):
        Store.open(tmp_path)
    answers.set()
    desk.store.close()
    assert recovered(tmp_path).paused


def test_a_loop_that_is_gone_is_told_nothing_and_all_is_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.recover()
    loop = asyncio.new_event_loop()
    store.start(loop)
    loop.close()
    store.add(record("a"), lambda _: None)
    store.close()
    assert [job.id for job in recovered(tmp_path).jobs] == ["a"]
