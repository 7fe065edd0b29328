"""`hermetic demo` with everything heavy replaced: what it says, writes and returns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

import hermetic.cli.demo.leak
from hermetic import Client, Result
from hermetic.cli.demo import command
from hermetic.cli.demo.contact_sheet import Row, contact_sheet
from hermetic.cli.demo.leak import Direction, reproduce
from hermetic.cli.demo.rounds import play
from hermetic.cli.process_life import ProcessLife
from hermetic_wire.errors import HermeticError
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import JobRunning, JobUpdate, ModelRow, WorkerRow
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import JOB_ID, FakeClient, identity, succeeded

LEAK = [
    Direction(first="sdxl", second="sd15", error="mat1 and mat2", works_after_clear=True),
    Direction(first="sd15", second="sdxl", error="pooled", works_after_clear=True),
]
SHADES = {"demo-sd15": 10, "demo-sdxl": 20}


class DemoClient(FakeClient):
    """Every switch is a new process; `lives` is what /proc would tell."""

    def __init__(self) -> None:
        rows = [
            ModelRow(name=name, architecture="x", source="embedded", path=f"/models/{name}")
            for name in SHADES
        ]
        super().__init__(model_rows=rows)
        self.lives: dict[int, ProcessLife] = {}
        self.immortal = False

    def generate(
        self, prompts: Sequence[str], *, model: str, seed: Sequence[int], on_update: Any
    ) -> Result:
        epoch = len(self.asked("generate")) + 1
        self._asked("generate", model)
        if not self.immortal:
            self.lives.clear()
        worker = identity(model, epoch=epoch, pid=100 + epoch)
        self.lives[worker.pid] = ProcessLife(worker.pid, epoch)
        self.worker_rows = [
            WorkerRow(model=model, architecture="x", epoch=1, pid=pid, device="cpu", state="ready")
            for pid in self.lives
        ]
        self.worker_rows.append(
            WorkerRow(model="", architecture="", epoch=9, pid=999, device="cpu", state="standby")
        )
        on_update(JobRunning(job_id=JOB_ID, epoch=epoch, pid=worker.pid))
        task = TextToImage(prompts=tuple(prompts), seeds=tuple(seed), width=8, height=8, steps=8)
        return succeeded(task, model, worker=worker, shade=SHADES[model])


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DemoClient:
    """The demo's own daemon, which ends with its context as all its workers do."""
    client = DemoClient()
    log = tmp_path / "daemon.log"
    log.write_text("serving\n")

    @contextmanager
    def own_daemon(**options: Any) -> Iterator[Any]:
        yield SimpleNamespace(client=client, log=log, directory=tmp_path)
        client.lives.clear()

    monkeypatch.setattr("hermetic.cli.own_daemon.own_daemon", own_daemon)
    monkeypatch.setattr(hermetic.cli.demo.leak, "reproduce", lambda sd15, sdxl: LEAK)
    monkeypatch.setattr(command, "missing", lambda extra: [])
    monkeypatch.setattr(ProcessLife, "of", client.lives.get)
    return client


def test_the_story(daemon: DemoClient, run: Run, tmp_path: Path) -> None:
    done = run("demo", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    for said in ("1  The bug", "mat1 and mat2", "pooled", "2  The same", "former process gone"):
        assert said in done.stdout
    assert "FAIL" not in done.stdout
    assert daemon.asked("generate") == ["demo-sd15", "demo-sdxl"] * 2
    assert len(list((tmp_path / "out").glob("round*.png"))) == 20
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.width > 1000


def test_as_json(daemon: DemoClient, run: Run, tmp_path: Path) -> None:
    told = json.loads(run("demo", "--json", "--out", str(tmp_path)).stdout)
    assert told["ok"] is True
    assert [one["worker"]["epoch"] for one in told["rounds"]] == [1, 2, 3, 4]
    assert [one["error"] for one in told["leak"]] == ["mat1 and mat2", "pooled"]
    assert all(check["holds"] for check in told["checks"])
    assert Path(told["contact_sheet"]).is_file()


def test_a_failed_check_fails_the_demo(daemon: DemoClient, run: Run, tmp_path: Path) -> None:
    daemon.immortal = True
    done = run("demo", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "FAIL at every switch the former process was gone" in done.stdout
    assert "the demo failed: at every switch the former process was gone" in done.stderr


def test_a_broken_embedded_model(daemon: DemoClient, run: Run) -> None:
    row = daemon.model_rows[0]
    daemon.model_rows[0] = ModelRow(
        name=row.name, architecture="x", source="embedded", problem="no unet"
    )
    done = run("demo")
    assert done.exit_code == 65
    assert "no unet" in done.stderr


def test_without_the_extras_it_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "missing", lambda extra: [f"{extra}-thing>=1"])
    done = run("demo")
    assert done.exit_code == 78
    assert "daemon-thing>=1, worker-thing>=1" in done.stderr
    assert "pip install 'hermetic[all]'" in done.stderr


def test_the_former_worker_is_looked_for_when_the_next_begins(daemon: DemoClient) -> None:
    daemon.immortal = True
    shown: list[JobUpdate] = []

    @contextmanager
    def show(label: str) -> Iterator[Any]:
        yield shown.append

    first, second = play(cast("Client", daemon), ["demo-sd15", "demo-sdxl"], ["p"], [1], show)
    assert (first.former_gone, second.former_gone) == (None, False)
    assert len(shown) == 2, "the progress is shown all the same"


def report(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "", code: int = 0) -> None:
    done = subprocess.CompletedProcess[str]([], code, stdout, stderr)
    monkeypatch.setattr("hermetic.cli.demo.leak.subprocess.run", lambda *words, **how: done)


def test_the_leaks_report_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"first": "sdxl", "second": "sd15", "error": "mat1", "works_after_clear": True}
    report(monkeypatch, json.dumps([one, {**one, "error": None}]), code=1)
    first, second = reproduce("a", "b")
    assert first.leaked
    assert not second.leaked


def test_a_leak_without_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, "", "Traceback\nImportError: no torch", code=1)
    with pytest.raises(HermeticError, match="code 1 and without a report") as caught:
        reproduce("a", "b")
    assert caught.value.report == "Traceback\nImportError: no torch"


def test_a_leak_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*words: object, **how: object) -> None:
        raise subprocess.TimeoutExpired("leak", 300)

    monkeypatch.setattr("hermetic.cli.demo.leak.subprocess.run", hang)
    with pytest.raises(HermeticError, match="did not end within 300 s"):
        reproduce("a", "b")


def test_the_contact_sheet_holds_every_picture() -> None:
    red, blue = Image.new("RGB", (8, 8), "#ff0000"), Image.new("RGB", (8, 8), "#0000ff")
    rows = [Row("a", ["round 1"], [red, blue]), Row("b", ["round 2"], [blue, red], "same", "gone")]
    sheet = contact_sheet("Title", "Subtitle", ["one", "a prompt of many words " * 5], rows)
    counts = {colour: count for count, colour in sheet.getcolors(1 << 20) or []}
    assert counts[255, 0, 0] == counts[0, 0, 255] == 2 * 176 * 176
