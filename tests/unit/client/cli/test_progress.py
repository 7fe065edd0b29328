"""Progress on a terminal and off it."""

from __future__ import annotations

import io
import sys

import pytest

from hermetic.cli.progress import phase_of, progress
from hermetic_wire.errors import ErrorBody
from hermetic_wire.messages import JobFailed, JobLoading, JobQueued, JobRetrying, JobStep
from unit.client.cli.fake_client import JOB_ID, updates


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_each_phase_and_the_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    times = iter(range(100))
    with progress("easel", clock=lambda: next(times) / 4) as show:
        for update in updates(steps=8):
            show(update)
    shown = terminal.getvalue()
    assert "easel: step 8 of 8" in shown
    assert "4.0 it/s" in shown
    assert shown.endswith("\x1b[2K"), "the bar leaves no trace"


def test_off_a_terminal_a_flood_of_steps_is_four_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("easel") as show:
        for update in updates(steps=1000)[6:]:
            show(update)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"easel: step {step} of 1000" for step in (250, 500, 750, 1000)]


def test_a_stage_that_goes_on_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("easel") as show:
        for percent in range(100):
            show(JobLoading(job_id=JOB_ID, stage="unet", fraction=percent / 100))
    assert capsys.readouterr().err == "easel: loading: unet\n"


def test_a_load_that_starts_anew_is_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("easel") as show:
        for stage in ("unet", "vae", "unet"):
            show(JobLoading(job_id=JOB_ID, stage=stage, fraction=0))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_job_that_waits_is_told_about_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("easel") as show:
        show(JobQueued(job_id=JOB_ID, position=3, estimate_s=40.2))
        show(JobQueued(job_id=JOB_ID, position=3, estimate_s=39.9))
        show(JobQueued(job_id=JOB_ID, position=0, estimate_s=0.1))
    assert capsys.readouterr().err.splitlines() == [
        "easel: waiting, 3 before it, about 40 s",
        "easel: next in turn, about 1 s",
    ]


def test_a_worker_that_died_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    error = ErrorBody(code="worker_died", message="Its worker ended (SIGKILL).\nAnd more.")
    with progress("easel") as show:
        show(JobRetrying(job_id=JOB_ID, attempt=1, error=error, retry_after=1.0))
        show(JobRetrying(job_id=JOB_ID, attempt=2, error=error))
    assert capsys.readouterr().err.splitlines() == [
        "easel: Its worker ended (SIGKILL); trying once more in 1 s",
        "easel: Its worker ended (SIGKILL); trying once more",
    ]


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("easel", quiet=True) as show:
        for update in updates():
            show(update)
    assert capsys.readouterr() == ("", "")


def test_an_end_is_no_phase() -> None:
    error = ErrorBody(code="job", message="no")
    assert phase_of(JobFailed(job_id=JOB_ID, state="failed", error=error)) is None


def test_a_model_without_steps_does_not_divide_by_them() -> None:
    assert phase_of(JobStep(job_id=JOB_ID, step=0, steps=0)) is not None
