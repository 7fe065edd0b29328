"""`cancel`, `load`, `unload`, `stop`, `serve`."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from hermetic.cli import serving
from hermetic.cli.jobs import match
from hermetic_wire.errors import InvalidParameter, LoadFailed, UnknownJob
from hermetic_wire.generation import JobState
from hermetic_wire.messages import JobRow
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import FakeClient


def job(job_id: str, state: JobState = "queued") -> JobRow:
    return JobRow(id=job_id, app="", uid=0, pid=7, model="m", state=state, position=None)


def test_cancel_takes_the_beginning_of_an_id(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("3f2a00"), job("91bc00")]
    done = run("cancel", "3f", "91bc00")
    assert done.exit_code == 0
    assert client.asked("cancel") == ["3f2a00", "91bc00"]
    assert done.stdout.splitlines() == ["3f2a00: cancelled", "91bc00: cancelled"]


def test_cancel_as_json(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("3f2a00")]
    assert json.loads(run("cancel", "3f", "--json").stdout) == [
        {"id": "3f2a00", "message": "cancelled"}
    ]


def test_one_bad_id_does_not_save_the_other_jobs(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("3f2a00")]
    done = run("cancel", "77", "3f", "88")
    assert done.exit_code == 66
    assert client.asked("cancel") == ["3f2a00"]
    assert "'77'" in done.stderr
    assert "'88'" in done.stderr


def test_an_ambiguous_beginning_names_the_candidates() -> None:
    with pytest.raises(InvalidParameter, match=r"2 jobs: 3f01, 3f02"):
        match("3f", [job("3f01"), job("3f02", "running")])


def test_an_ended_job_is_no_candidate_beside_an_open_one() -> None:
    assert match("3f", [job("3f01", "succeeded"), job("3f02", "running")]) == "3f02"


def test_a_whole_id_is_itself_though_a_longer_one_begins_so() -> None:
    assert match("3f", [job("3f"), job("3f02")]) == "3f"


def test_no_such_job() -> None:
    with pytest.raises(UnknownJob, match="hermetic jobs"):
        match("3f", [job("91")])


def test_load(client: FakeClient, run: Run) -> None:
    done = run("load", "demo-sd15")
    assert client.asked("load") == ["demo-sd15"]
    assert "demo-sd15 is ready: process 4242, epoch 3, cpu" in done.stdout
    assert "load 250 ms" in done.stdout
    assert "demo-sd15: loading: unet" in done.stderr


def test_a_loaded_model_is_kept_as_long_as_asked(client: FakeClient, run: Run) -> None:
    run("load", "demo-sd15", "--keep-alive", "1h30m")
    assert client.asked("load") == [("demo-sd15", 5400.0)]


def test_load_as_json(run: Run) -> None:
    found = json.loads(run("load", "demo-sd15", "--json").stdout)
    assert found["worker"]["epoch"] == 3
    assert found["timings"]["load"] == 0.25


def test_a_load_that_fails(client: FakeClient, run: Run) -> None:
    client.end = LoadFailed("The UNet is a VAE.")
    assert run("load", "demo-sd15").exit_code == LoadFailed.exit_code


def test_unload(client: FakeClient, run: Run) -> None:
    assert run("unload", "demo-sd15").stdout == "demo-sd15 is unloaded\n"


@pytest.mark.parametrize(
    ("words", "mode"), [((), "stop"), (("--drain",), "drain"), (("--kill",), "kill")]
)
def test_stop_says_how(
    client: FakeClient, run: Run, words: tuple[str, ...], mode: str, tmp_path: Path
) -> None:
    done = run("--endpoint", str(tmp_path / "none.sock"), "stop", *words)
    assert client.asked("stop") == [mode]
    assert done.stdout.splitlines() == ["stopping", "The daemon is gone."]
    assert ("kept for the next daemon" in done.stderr) == (mode != "drain")


@pytest.mark.parametrize(("verb", "said"), [("pause", "paused"), ("resume", "resumed")])
def test_pause_and_resume(client: FakeClient, run: Run, verb: str, said: str) -> None:
    assert run(verb).stdout == f"{said}\n"
    assert client.asked(verb) == [None]


def test_stop_waits_for_the_endpoint_to_end(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "busy.sock"
    naps: list[float] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            listener.close()  # the file stays: nobody listening is what counts

        monkeypatch.setattr("hermetic.cli.serving.time.sleep", sleep)
        done = run("stop", "--endpoint", str(path))
    assert done.exit_code == 0
    assert len(naps) == 1
    assert path.exists()


def test_stop_gives_up_after_its_timeout(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        done = run("stop", "--timeout", "0", "--endpoint", str(path))
    assert done.exit_code == 69
    assert "hermetic stop --kill" in done.stderr


def test_stop_without_waiting(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        assert run("stop", "--no-wait", "--endpoint", str(path)).stdout == "stopping\n"


def test_serve_becomes_the_daemon(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("hermetic.cli.serving.os.execv", lambda file, words: started.append(words))
    run("serve", "--endpoint", "/tmp/x.sock", "--device", "cuda:1", "--config", "h.toml")
    assert started == [
        [
            *(sys.executable, "-m", "hermetic_daemon", "--endpoint", "/tmp/x.sock"),
            *("--config", "h.toml", "--device", "cuda:1"),
        ]
    ]


def test_serve_sets_a_broken_store_aside_only_when_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("hermetic.cli.serving.os.execv", lambda file, words: started.append(words))
    run("serve")
    run("serve", "--set-store-aside")
    assert ["--set-store-aside" in words for words in started] == [False, True]


def test_serve_without_the_daemon_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "missing", lambda extra: ["psutil>=6"])
    done = run("serve")
    assert done.exit_code == 78
    assert "psutil>=6" in done.stderr
    assert "pip install 'hermetic[daemon,worker]'" in done.stderr
