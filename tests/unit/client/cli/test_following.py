"""`follow`, `events` and `jobs --watch`: jobs that others have submitted."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from time import gmtime
from typing import cast

import pytest
from PIL import Image

from hermetic import Client, JobForgotten, WatchUpdate
from hermetic.cli.diary import Diary
from hermetic.cli.job_rows import Board
from hermetic.cli.jobs import jobs
from hermetic.cli.session import Session
from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import JobState
from hermetic_wire.messages import (
    JobEnded,
    JobLoading,
    JobQueued,
    JobRetrying,
    JobRow,
    JobRunning,
    JobStep,
    JobSubmitted,
)
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import JOB_ID, FakeClient

_DIED = ErrorBody(code="worker_died", message="The worker was killed.")


def job(state: JobState = "queued", job_id: str = JOB_ID, **fields: object) -> JobRow:
    row = {"app": "easel", "uid": 0, "pid": 7, "model": "demo-sd15", "position": 0}
    return JobRow(id=job_id, state=state, **{**row, **fields})  # type: ignore[arg-type]


def life() -> list[WatchUpdate]:
    """All that a watcher hears of one job."""
    return [
        JobSubmitted(job_id=JOB_ID, job=job(priority="low", position=1)),
        JobQueued(job_id=JOB_ID, position=1, estimate_s=40.0),
        JobLoading(job_id=JOB_ID, stage="unet", fraction=0.5),
        JobRunning(job_id=JOB_ID, epoch=3, pid=4242),
        JobStep(job_id=JOB_ID, step=4, steps=8),
        JobRetrying(job_id=JOB_ID, attempt=1, error=_DIED, retry_after=2.0),
        JobRunning(job_id=JOB_ID, epoch=4, pid=4343),
        JobEnded(job_id=JOB_ID, job=job("failed", error=_DIED, ended_at=9.0)),
    ]


def test_follow_writes_the_images_of_another_terminals_job(
    client: FakeClient, run: Run, tmp_path: Path
) -> None:
    client.job_rows = [job("running")]
    done = run("follow", "3f2a", "-o", str(tmp_path / "moon.png"))
    assert done.exit_code == 0, done.output
    assert client.asked("job") == [(JOB_ID, None)]
    assert done.stdout == f"{tmp_path / 'moon.png'}\n"
    assert "demo-sd15: step 8 of 8" in done.stderr
    with Image.open(tmp_path / "moon.png") as image:
        assert image.size == (8, 8)


def test_follow_as_json(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("succeeded")]
    assert json.loads(run("follow", JOB_ID, "--json").stdout)["job_id"] == JOB_ID


def test_follow_of_several_images_does_not_mix_them_on_stdout(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("running")]
    client.images = 2
    done = run("follow", "3f2a", "-o", "-")
    assert (done.exit_code, done.stdout) == (2, "")


def test_ctrl_c_leaves_a_followed_job_alone(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("running")]
    client.script = [KeyboardInterrupt()]
    assert run("follow", "3f2a").exit_code == 130
    assert client.started is not None
    assert client.started.cancelled == 0


def test_follow_asks_for_previews_only_where_they_go_somewhere(
    client: FakeClient, run: Run
) -> None:
    client.job_rows = [job("running")]
    run("follow", "3f2a", "--preview-file", "so-far.png")
    assert client.asked("job") == [(JOB_ID, 1.0)]


def test_follow_of_no_job(run: Run) -> None:
    assert run("follow", "3f2a").exit_code == 66


def test_events_are_lines(client: FakeClient, run: Run) -> None:
    client.news = life()
    lines = run("events", "--app", "easel").stdout.splitlines()
    assert client.asked("events") == ["easel"]
    assert [line.partition("  ")[2] for line in lines] == [
        "3f2a91bc  easel, demo-sd15: low priority, queued",
        "3f2a91bc  easel, demo-sd15: waiting, 1 before it, about 40 s",
        "3f2a91bc  easel, demo-sd15: loading: unet",
        "3f2a91bc  easel, demo-sd15: running in process 4242, epoch 3",
        "3f2a91bc  easel, demo-sd15: step 4 of 8",
        "3f2a91bc  easel, demo-sd15: The worker was killed; trying once more in 2 s",
        "3f2a91bc  easel, demo-sd15: running in process 4343, epoch 4",
        "3f2a91bc  easel, demo-sd15: failed: The worker was killed.",
    ]


def test_events_as_json_are_an_object_per_line(client: FakeClient, run: Run) -> None:
    client.news = life()
    found = [json.loads(line) for line in run("events", "--json").stdout.splitlines()]
    assert [one["type"] for one in found][:2] == ["job_submitted", "job_queued"]
    assert {one["job_id"] for one in found} == {JOB_ID}
    assert all(one["at"] > 0 for one in found)
    assert found[-1]["job"]["error"]["code"] == "worker_died"
    assert "v" not in found[0]


def test_ctrl_c_ends_events(client: FakeClient, run: Run) -> None:
    client.news = [*life()[:1], KeyboardInterrupt()]
    done = run("events")
    assert done.exit_code == 130
    assert len(done.stdout.splitlines()) == 1


def test_news_of_a_job_that_nobody_has_introduced_is_no_line() -> None:
    diary = Diary()
    assert diary.line(JobStep(job_id="x", step=1, steps=1), gmtime(0)) is None
    assert diary.line(JobEnded(job_id="x", job=job("succeeded", "x")), gmtime(3661)) == (
        "01:01:01  x  easel, demo-sd15: succeeded"
    )


def test_a_job_that_the_daemon_does_not_know_any_more_is_a_last_line(
    client: FakeClient, run: Run
) -> None:
    client.news = [*life()[:1], JobForgotten(job_id=JOB_ID), JobForgotten(job_id="unheard of")]
    _, last = run("events").stdout.splitlines()
    assert last.partition("  ")[2] == (
        "3f2a91bc  easel, demo-sd15: the daemon does not know it any more"
    )
    told = [json.loads(line) for line in run("events", "--json").stdout.splitlines()]
    assert told[1]["type"] == "job_forgotten"
    assert told[1]["job_id"] == JOB_ID


def test_a_thousand_steps_are_four_lines() -> None:
    diary = Diary()
    steps = [JobStep(job_id=JOB_ID, step=i, steps=1000) for i in range(1, 1001)]
    lines = [diary.line(one, gmtime(0)) for one in [*life()[:1], *steps]]
    assert len([line for line in lines if line]) == 5


def test_jobs_are_watched_off_a_terminal_as_lines(client: FakeClient, run: Run) -> None:
    client.news = life()
    assert len(run("jobs", "--watch").stdout.splitlines()) == 8
    assert client.asked("jobs") == [], "it listens and does not poll"


def test_a_watched_table_is_no_json(client: FakeClient, run: Run) -> None:
    assert run("jobs", "--watch", "--json").exit_code == 2
    assert client.calls == []


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_jobs_are_watched_on_a_terminal_as_a_table(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    client.news = life()
    session = Session(open_client=lambda endpoint, timeout: cast("Client", client))
    jobs.main(["--watch"], obj=session, standalone_mode=False)
    shown = terminal.getvalue()
    assert "POSITION" in shown
    assert "The worker was killed." in shown


def test_a_board_follows_each_update() -> None:
    board, seen = Board(), list[tuple[str, int | None, int, int]]()
    for second, update in enumerate(life()):
        board.note(update, float(second))
        [row] = board.rows()
        seen.append((row.state, row.position, row.step, row.attempts))
    assert seen == [
        ("queued", 1, 0, 0),
        ("queued", 1, 0, 0),
        ("loading", None, 0, 0),
        ("running", None, 0, 0),
        ("running", None, 4, 0),
        ("queued", None, 0, 1),
        ("running", None, 0, 1),
        ("failed", 0, 0, 0),
    ]


def test_a_board_keeps_running_before_waiting_before_ended_jobs() -> None:
    board = Board()
    rows = [
        job("succeeded", "old", ended_at=1.0),
        job("queued", "second", position=2),
        job("succeeded", "young", ended_at=2.0),
        job("queued", "first", position=1),
        job("running", "runs", position=None),
    ]
    for row in rows:
        board.note(JobSubmitted(job_id=row.id, job=row), 0.0)
    board.note(JobStep(job_id="old", step=1, steps=2), 0.0)
    board.note(JobStep(job_id="unknown", step=1, steps=2), 0.0)
    assert [row.id for row in board.rows()] == ["runs", "first", "second", "young", "old"]


def test_a_board_drops_a_job_that_the_daemon_does_not_know_any_more() -> None:
    board = Board()
    for update in (*life()[:1], JobForgotten(job_id=JOB_ID), JobForgotten(job_id="unheard of")):
        board.note(update, 0.0)
    assert board.rows() == []


def test_a_board_forgets_jobs_that_ended_long_ago() -> None:
    board = Board()
    for number in range(30):
        row = job("succeeded", f"j{number}", ended_at=float(number))
        board.note(JobEnded(job_id=row.id, job=row), 0.0)
    assert [row.id for row in board.rows()] == [f"j{number}" for number in range(29, 19, -1)]
