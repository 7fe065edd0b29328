"""What `overhead` compares, which budget it says to hold, and how it tells a result from news."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import _crowd
import _disk
import _http
import _proc
import overhead
from _arms import BenchError
from _report import TailSamples, tell
from hermetic.cli.bench.figures import Figure, Samples
from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import Image, Output, TextToImage, WorkerIdentity
from hermetic_wire.messages import (
    Accepted,
    FromDaemon,
    JobFailed,
    JobQueued,
    JobRunning,
    JobStep,
    JobSucceeded,
    Rejected,
    from_daemon,
)


def figures(**changes: float) -> dict[str, Figure]:
    medians = {
        "submit_to_result_ms": 2.0,
        "submit_to_result_ms/3_megabytes": 4.0,
        "bare_submit_to_result_ms": 1.5,
        "http_ms": 1.0,
        "http_ms/3_megabytes": 2.0,
        "function_ms": 0.5,
        "function_ms/3_megabytes": 1.0,
        "3_megabytes_ms": 2.0,
        "limit_ms": 1.0,
        "durable_jobs_per_s": 2000.0,
        "apps_jobs_per_s": 500.0,
        "http_jobs_per_s": 1000.0,
        "limit_jobs_per_s": 4000.0,
        **changes,
    }
    samples = Samples()
    for name, value in medians.items():
        samples.add(name, "", value)
    return samples.figures()


def frames(message: FromDaemon, pixels: bytes | None = None) -> list[bytes]:
    raw = [] if pixels is None else [pixels]
    return [bytes(frame) for frame in from_daemon.encode(message, raw)]


JOB = _crowd.Wanted([], b"\x01\x02\x03")
RESULT = JobSucceeded(
    job_id="a",
    task=TextToImage(prompts=("p",)),
    output=Output(images=(Image(width=8, height=8),)),
    worker=WorkerIdentity(model="echo", architecture="echo", epoch=1, pid=2, device="cpu"),
)


def test_ratios_are_ours_over_the_others() -> None:
    found = overhead.ratios(figures())
    assert found["submit_to_result/http"] == 2.0
    assert found["submit_to_result/function"] == 4.0
    assert found["submit_to_result/http/3_megabytes"] == 2.0
    assert found["http/durable_jobs_per_s"] == 0.5
    assert found["durable/apps_jobs_per_s"] == 4.0
    assert found["bare_submit_to_result/limit"] == 1.5
    assert found["limit/durable_jobs_per_s"] == 2.0


def test_a_budget_that_is_missed_is_named() -> None:
    assert all(words.startswith("holds") for words in overhead.verdicts(figures()))
    missed = overhead.verdicts(figures(submit_to_result_ms=3.5, durable_jobs_per_s=999.0))
    assert [words.split(":")[0] for words in missed].count("does not hold") == 2
    assert any("submit_to_result_ms is 3.50" in words for words in missed)


def test_news_of_a_job_is_not_its_end() -> None:
    news: list[FromDaemon] = [
        Accepted(seq=2, job_id="a", state="queued"),
        JobQueued(job_id="a", position=0),
        JobRunning(job_id="a", epoch=1, pid=2),
        JobStep(job_id="a", step=1, steps=1),
    ]
    assert not any(_crowd._over(frames(each), JOB) for each in news)
    assert _crowd._over(frames(RESULT, b"\x01\x02\x03" * 64), JOB)


def test_pixels_of_another_job_are_no_result() -> None:
    with pytest.raises(BenchError, match="another's pixels"):
        _crowd._over(frames(RESULT, b"\x09\x09\x09" * 64), JOB)


@pytest.mark.parametrize(
    "message",
    [
        Rejected(seq=2, error=ErrorBody(code="queue_full", message="too many")),
        JobFailed(job_id="a", state="failed", error=ErrorBody(code="worker_died", message="oh")),
    ],
)
def test_a_job_that_is_not_done_is_no_figure(message: FromDaemon) -> None:
    with pytest.raises(BenchError, match="was not done"):
        _crowd._over(frames(message), JOB)


def test_stages_add_up_to_the_whole_whatever_else_is_heard() -> None:
    heard = [
        (1.0, [b""]),
        (2.0, frames(Accepted(seq=2, job_id="a", state="queued"))),
        (3.0, frames(JobQueued(job_id="a", position=0))),
        (5.0, frames(JobRunning(job_id="a", epoch=1, pid=2))),
        (6.0, frames(JobStep(job_id="a", step=1, steps=1))),
        (9.0, frames(RESULT, b"\x01\x02\x03" * 64)),
    ]
    assert _crowd._by_stage(heard) == {"accepted": 1.0, "result": 7.0}


def test_the_length_of_an_answer_is_what_it_says() -> None:
    assert _http._length(b"HTTP/1.1 200 OK\r\nContent-Length: 192\r\nserver: x") == 192
    with pytest.raises(BenchError, match="no length"):
        _http._length(b"HTTP/1.1 200 OK")


def test_the_tail_is_told_where_there_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    samples = TailSamples()
    for value in range(1, 101):
        samples.add("many", "ms", float(value))
    samples.add("few", "ms", 1.0)
    tell("overhead", "cpu", samples, {}, True)
    told = json.loads(capsys.readouterr().out)["figures"]
    assert told["many"]["p99"] == 99.0
    assert "p99" not in told["few"]
    tell("overhead", "cpu", samples, {"a/b": 0.5}, False)
    assert "99.000" in capsys.readouterr().out


def test_what_is_written_to_the_disk_is_removed(tmp_path: Path) -> None:
    with _disk.Disk(tmp_path) as disk:
        assert disk.block() > 0
        assert disk.commit() > 0
    assert list(tmp_path.iterdir()) == []


def test_the_innermost_mount_is_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:1 / {tmp_path}/memory rw - tmpfs none rw\n"
    )
    assert _disk.file_system(tmp_path / "memory" / "state", tmp_path) == "tmpfs"
    assert _disk.file_system(tmp_path / "memory-not", tmp_path) == "ext4"


def test_a_processes_name_cannot_break_its_times(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = "S 1 7 7 0 -1 0 0 0 0 0 250 150 0 0"
    (tmp_path / "7" / "stat").write_text(f"7 (a) (b c) {fields}")
    ticks = os.sysconf("SC_CLK_TCK")
    assert _proc.cpu_seconds(7, tmp_path) == 400 / ticks
