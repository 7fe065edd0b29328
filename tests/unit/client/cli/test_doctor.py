"""The doctor: each finding, and that each one that is not well has a remedy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hermetic.cli.doctor import installation, places, running
from hermetic.cli.doctor.finding import Finding
from hermetic.cli.installed import Requirement
from hermetic.cli.session import Session
from hermetic_wire.errors import DaemonUnreachable, ProtocolMismatch
from hermetic_wire.messages import ModelRow, StoreStatus, TemplateStatus
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import FakeClient


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (installation.kernel("Linux", "6.18.44-generic"), "ok"),
        (installation.kernel("Linux", "5.3.0"), "ok"),
        (installation.kernel("Linux", "4.19.1"), "fail"),
        (installation.kernel("Darwin", "25.0"), "fail"),
        (installation.python((3, 11, 7)), "ok"),
        (installation.python((3, 10, 2)), "fail"),
        (places.memory("MemTotal: 9 kB\nMemAvailable:   9999999 kB\n"), "ok"),
        (places.memory("MemTotal: 9 kB\nMemAvailable:   99999 kB\n"), "warn"),
        (running.worker(lambda program: (0, "it starts"), deep=False), "ok"),
        (running.worker(lambda program: (1, "ImportError: torch"), deep=True), "fail"),
        (running.gpu([], lambda program: (0, "unasked"), deep=False), "ok"),
        (running.gpu([], lambda program: (1, "no CUDA"), deep=True), "ok"),
        (running.gpu(["/dev/nvidia0"], lambda program: (0, "NVIDIA Loom"), deep=False), "ok"),
        (running.gpu(["/dev/nvidia0"], lambda program: (1, "no CUDA"), deep=False), "warn"),
    ],
)
def test_verdicts(finding: Finding, verdict: str) -> None:
    assert finding.verdict == verdict
    assert bool(finding.remedy) == (verdict != "ok"), "whoever is told is told what to do"


def test_packages() -> None:
    wanted = [
        Requirement("msgspec", "0.19", "", "0.22"),
        Requirement("click", "8.1", "cli", "7.0"),
        Requirement("psutil", "6", "daemon", "7.2"),
        Requirement("torch", "2.6", "worker", None),
    ]
    found = {one.subject: one for one in installation.packages(wanted)}
    assert [one.verdict for one in found.values()] == ["ok", "fail", "ok", "warn"]
    assert "torch is missing: only the echo pipeline works" in found["packages [worker]"].seen
    assert found["packages [worker]"].remedy == "pip install 'hermetic[worker]' (wants torch>=2.6)"


def test_an_endpoint_of_ones_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert places.endpoint(str(tmp_path / "h.sock")).verdict == "ok"
    made_later = places.endpoint(str(tmp_path / "run" / "h.sock"))
    assert made_later.verdict == "ok"
    assert "made when the daemon starts" in made_later.seen


@pytest.mark.parametrize("given", ["/tmp/" + "x" * 120, "tcp://127.0.0.1:5555"])
def test_an_endpoint_that_cannot_be(given: str) -> None:
    found = places.endpoint(given)
    assert found.verdict == "fail"
    assert found.remedy


def test_a_directory_that_everybody_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found = places.endpoint(str(tmp_path / "h.sock"))
    assert found.verdict == "fail"
    assert found.remedy == f"chmod 700 {tmp_path}"


def test_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("hermetic.cli.doctor.places.os.getuid", lambda: owner + 1)
    found = places.endpoint(str(tmp_path / "h.sock"))
    assert found.verdict == ("ok" if owner == 0 else "warn")


def test_configuration(tmp_path: Path) -> None:
    file = tmp_path / "hermetic.toml"
    assert places.configuration(file).verdict == "ok"
    file.write_text("[daemon]\n")
    assert places.configuration(file).verdict == "ok"
    file.write_text("[daemon\n")
    assert places.configuration(file).verdict == "fail"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("usage", (), {"free": 2 << 30})
    monkeypatch.setattr("hermetic.cli.doctor.places.shutil.disk_usage", lambda place: usage)
    assert places.disk(tmp_path / "not" / "there").verdict == "ok"
    usage.free = 5
    assert places.disk(tmp_path).verdict == "warn"


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.state(tmp_path) == Finding("state directory", "ok", str(tmp_path))
    assert "made when" in places.state(tmp_path / "not" / "there").seen
    monkeypatch.setattr("hermetic.cli.doctor.places.os.access", lambda place, how: False)
    found = places.state(tmp_path)
    assert (found.verdict, bool(found.remedy)) == ("warn", True)


def ask_daemon(client: FakeClient) -> dict[str, Finding]:
    session = Session(open_client=lambda endpoint, timeout: client)  # type: ignore[arg-type, return-value]
    return {one.subject: one for one in running.daemon(session)}


def test_the_daemon_and_its_models(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.model_rows.append(
        ModelRow(name="bent", architecture="sd15", source="configured", problem="no unet")
    )
    monkeypatch.setattr("hermetic.cli.doctor.running.metadata.version", lambda name: "0.1.0")
    found = ask_daemon(client)
    assert found["daemon"].verdict == "ok"
    assert found["models"].seen == "demo-sd15"
    assert found["model bent"].remedy == "hermetic show bent"
    monkeypatch.setattr("hermetic.cli.doctor.running.metadata.version", lambda name: "0.2.0")
    assert ask_daemon(client)["daemon"].verdict == "warn"


def test_a_store_that_fails(client: FakeClient) -> None:
    assert "store" not in ask_daemon(client), "an older daemon has none"
    client.store = StoreStatus(path="/s/jobs.db", state="writing", jobs=3)
    assert ask_daemon(client)["store"].verdict == "ok"
    client.store = StoreStatus(path="/s/jobs.db", state="failing", reason="the disk is full")
    found = ask_daemon(client)["store"]
    assert found.verdict == "fail"
    assert "the disk is full" in found.seen
    assert found.remedy


def test_a_template_that_serves(client: FakeClient) -> None:
    client.template = TemplateStatus(
        state="serving", pid=70, private_bytes=180 << 20, skeletons={"a": "ready", "b": "no config"}
    )
    found = ask_daemon(client)["template"]
    assert found.verdict == "ok"
    assert found.seen == "serving, pid 70, 180.0 MiB of its own memory, skeletons: 1 of 2 ready"


@pytest.mark.parametrize(
    ("state", "verdict", "remedy"),
    [
        ("off", "ok", ""),
        ("starting", "ok", ""),
        ("refused", "warn", "kill -HUP 99"),
        ("waiting", "warn", "comes back by itself"),
    ],
)
def test_a_template_that_does_not(
    client: FakeClient, state: Any, verdict: str, remedy: str
) -> None:
    client.template = TemplateStatus(state=state, reason="it has two threads" * (verdict != "ok"))
    found = ask_daemon(client)["template"]
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != "ok")
    assert remedy in found.remedy
    assert client.template.reason in found.seen


def test_a_daemon_that_knows_no_template_has_no_finding_of_it(client: FakeClient) -> None:
    assert "template" not in ask_daemon(client)


def test_no_daemon(client: FakeClient) -> None:
    client.error = DaemonUnreachable("Nobody answers.")
    (found,) = ask_daemon(client).values()
    assert (found.subject, found.verdict) == ("daemon", "warn"), "and nothing of what it has"
    client.error = ProtocolMismatch("It speaks 9.")
    assert ask_daemon(client)["daemon"].verdict == "fail"


def test_a_fresh_interpreter_answers() -> None:
    assert running.ask_python("print('noise'); print('last')") == (0, "last")
    code, line = running.ask_python("raise SystemExit('no torch')")
    assert (code, line) == (1, "no torch")
    assert running.ask_python("raise SystemExit(3)") == (3, "exit code 3")


def test_a_fresh_interpreter_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*words: object, **how: object) -> None:
        raise subprocess.TimeoutExpired("python", 60)

    monkeypatch.setattr("hermetic.cli.doctor.running.subprocess.run", hang)
    assert running.ask_python("") == (1, "no answer within 60 s")


def test_the_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ask_python", lambda program: (0, "it starts"))
    done = run("doctor")
    assert "ok    worker: it starts" in done.stdout
    rows = json.loads(run("doctor", "--json").stdout)
    assert {"subject", "verdict", "seen", "remedy"} == set(rows[0])
    monkeypatch.setattr(running, "ask_python", lambda program: (1, "ImportError"))
    done = run("doctor", "--deep")
    assert done.exit_code == 1
    assert "fail  worker: ImportError\n      -> pip install" in done.stdout
