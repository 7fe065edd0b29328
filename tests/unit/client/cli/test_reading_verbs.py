"""`ps`, `models`, `show`, `jobs`, `status`: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import JobState
from hermetic_wire.messages import JobRow, ModelRow, StoreStatus, TemplateStatus, WorkerRow
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import FakeClient


def worker(**fields: object) -> WorkerRow:
    row = {
        "model": "demo-sd15",
        "architecture": "sd15",
        "epoch": 3,
        "pid": 4242,
        "device": "cpu",
        "state": "ready",
        "resident_bytes": 300 * 2**20,
        "peak_bytes": 3 * 2**30,
        "jobs": 2,
    }
    return WorkerRow(**{**row, **fields})  # type: ignore[arg-type]


def job(job_id: str, state: JobState = "queued", **fields: object) -> JobRow:
    row = {"app": "easel", "uid": 0, "pid": 7, "model": "demo-sd15", "position": 0}
    return JobRow(id=job_id, state=state, **{**row, **fields})  # type: ignore[arg-type]


def test_ps_shows_each_worker(client: FakeClient, run: Run) -> None:
    client.worker_rows = [worker()]
    done = run("ps")
    assert done.exit_code == 0
    heading, line = done.stdout.splitlines()
    assert heading.split()[:4] == ["MODEL", "ARCHITECTURE", "EPOCH", "PID"]
    assert "300.0 MiB" in line
    assert "3.0 GiB" in line
    assert "\x1b" not in done.stdout


def test_ps_tells_how_each_worker_was_started(client: FakeClient, run: Run) -> None:
    client.worker_rows = [worker(start_method="fork"), worker(model="echo", epoch=4)]
    heading, forked, new = run("ps").stdout.splitlines()
    column = heading.index("START")
    assert [line[column:].split()[0] for line in (forked, new)] == ["fork", "exec"]


def test_ps_shows_a_standby_as_a_worker_without_a_model(client: FakeClient, run: Run) -> None:
    client.worker_rows = [
        worker(),
        worker(model="", architecture="", epoch=4, state="standby", start_method="fork"),
    ]
    _, _, standby = run("ps").stdout.splitlines()
    assert standby.split()[:6] == ["-", "-", "4", "4242", "cpu", "standby"]
    rows = json.loads(run("ps", "--json").stdout)
    assert [row["model"] for row in rows] == ["demo-sd15", ""]


def test_ps_as_json_tells_how_a_worker_came_to_be(client: FakeClient, run: Run) -> None:
    why = "from_pretrained: it has no config.json"
    client.worker_rows = [worker(timings={"fork": 0.01}, loaded_by={"unet": "skeleton", "x": why})]
    (row,) = json.loads(run("ps", "--json").stdout)
    assert row["start_method"] == "exec"
    assert row["timings"] == {"fork": 0.01}
    assert row["loaded_by"] == {"unet": "skeleton", "x": why}


def test_ps_as_json_has_the_fixed_fields(client: FakeClient, run: Run) -> None:
    client.worker_rows = [worker(idle_until=12.5)]
    (row,) = json.loads(run("ps", "--json").stdout)
    fixed = "model architecture epoch pid device state resident_bytes peak_bytes jobs idle_until"
    assert set(fixed.split()) <= set(row)
    assert row["resident_bytes"] == 300 * 2**20
    assert row["idle_until"] == 12.5


def test_ps_counts_down_to_the_end_of_an_idle_worker(
    client: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermetic.cli.workers.time.time", lambda: 1000.0)
    client.worker_rows = [worker(idle_until=1185.0), worker(epoch=4, low_memory=True)]
    _, idle, lean = run("ps").stdout.splitlines()
    assert idle.endswith("3 min 05 s")
    assert "ready, low memory" in lean


def test_ps_tells_of_a_model_that_waits_after_a_crash(client: FakeClient, run: Run) -> None:
    client.worker_rows = [
        worker(epoch=0, pid=0, state="waiting", retry_after=4.4, reason="SIGSEGV.\nMore."),
        worker(model="echo", epoch=0, pid=0, state="waiting", reason="SIGKILL."),
    ]
    _, row, _, why, soon = run("ps").stdout.splitlines()
    assert row.split()[:6] == ["demo-sd15", "sd15", "-", "-", "cpu", "waiting"]
    assert why == "demo-sd15: a worker is started again in 4 s. The last one: SIGSEGV."
    assert soon == "echo: a worker is started again soon. The last one: SIGKILL."


def test_ps_without_workers_says_what_starts_one(run: Run) -> None:
    assert "hermetic load MODEL" in run("ps").stdout
    assert json.loads(run("ps", "--json").stdout) == []


def test_a_long_line_is_never_cut_off_a_terminal(client: FakeClient, run: Run) -> None:
    problem = "the UNet's cross-attention is 768 wide and the text encoder 1024: " + "x" * 200
    client.model_rows = [
        ModelRow(name="bent", architecture="sd15", source="configured", problem=problem)
    ]
    assert problem in run("models").stdout


def test_models(client: FakeClient, run: Run) -> None:
    assert "demo-sd15" in run("models").stdout
    (row,) = json.loads(run("models", "--json").stdout)
    assert row["name"] == "demo-sd15"


def test_show_is_a_page(client: FakeClient, run: Run) -> None:
    client.model_rows = [
        ModelRow(
            name="easel",
            architecture="sdxl",
            source="configured",
            path="/models/easel",
            components={"unet": "UNet2DConditionModel"},
            widths={"unet.cross_attention_dim": 2048},
            defaults={"steps": 20},
            extra={"clip_skip": "int"},
        )
    ]
    page = run("show", "easel").stdout
    for said in ("/models/easel", "UNet2DConditionModel", "2048", "steps", "clip_skip"):
        assert said in page
    assert json.loads(run("show", "easel", "--json").stdout)["widths"] == {
        "unet.cross_attention_dim": 2048
    }


def test_show_of_an_unknown_model(run: Run) -> None:
    done = run("show", "nothing", "--json")
    assert done.exit_code == 66
    assert json.loads(done.stdout)["error"]["code"] == "unknown_model"


def test_jobs_are_told_apart(client: FakeClient, run: Run) -> None:
    client.job_rows = [
        job("a" * 9 + "1", "running", position=None, step=3, steps=8, attempts=1),
        job("a" * 9 + "2", "failed", error=ErrorBody(code="job", message="it broke")),
    ]
    lines = run("jobs").stdout.splitlines()
    assert lines[1].startswith("aaaaaaaaa1 ")
    assert "3/8" in lines[1]
    assert "it broke" in lines[2]


def test_jobs_as_json_has_the_fixed_fields(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("a1")]
    (row,) = json.loads(run("jobs", "--json").stdout)
    fixed = {"id", "app", "model", "state", "position", "estimate_s", "attempts", "error"}
    assert fixed <= set(row)


def test_priorities_are_shown_where_they_differ(client: FakeClient, run: Run) -> None:
    client.job_rows = [job("a1"), job("a2")]
    assert "PRIORITY" not in run("jobs").stdout
    client.job_rows = [job("a1"), job("a2", priority="low")]
    heading, _, low = run("jobs").stdout.splitlines()
    assert low[heading.index("PRIORITY") :].startswith("low")


def test_a_waiting_job_is_estimated(
    client: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermetic.cli.jobs.time.time", lambda: 1000.0)
    client.job_rows = [job("a1", estimate_s=75.0), job("a2", not_before=1004.0)]
    _, estimated, held = run("jobs").stdout.splitlines()
    assert "1 min 15 s" in estimated
    assert "queued, not for 4 s" in held


def test_no_jobs(run: Run) -> None:
    assert run("jobs").stdout == "No jobs yet.\n"


def test_status(run: Run) -> None:
    said = run("status").stdout
    for part in ("pid 99", "serving for 1 min 15 s", "1 running, 2 waiting", "5 succeeded"):
        assert part in said
    found = json.loads(run("status", "--json").stdout)
    assert found["pid"] == 99
    assert not {"v", "seq", "type"} & set(found), "the wire's own fields are nobody's business"


def test_status_of_a_store(client: FakeClient, run: Run) -> None:
    client.store = StoreStatus(path="/s/jobs.db", state="writing", jobs=3, pixel_bytes=1 << 20)
    assert "/s/jobs.db, 3 jobs, 1.0 MiB of pixels" in run("status").stdout
    client.store = StoreStatus(path="/s/jobs.db", state="failing", reason="the disk is full")
    assert "new jobs are refused: the disk is full" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["store"]["state"] == "failing"


def test_status_of_a_pause_says_how_to_end_it(client: FakeClient, run: Run) -> None:
    assert "hermetic resume" not in run("status").stdout
    client.paused = True
    assert "hermetic resume" in run("status").stdout


def test_status_of_a_template_that_serves(client: FakeClient, run: Run) -> None:
    client.template = TemplateStatus(
        state="serving",
        pid=70,
        forks=12,
        private_bytes=180 << 20,
        skeletons={"a": "ready", "b": "ready", "odd": "unet/config.json is missing"},
        timings={"imports": 3.95, "skeletons": 0.31},
    )
    lines = {" ".join(line.split()) for line in run("status").stdout.splitlines()}
    assert {
        "template serving, pid 70",
        "its forks 12 workers so far",
        "its memory 180.0 MiB (not shared with its workers)",
        "its start 4.26 s (imports 3.95 s, skeletons 310 ms)",
        "skeletons 2 of 3 ready",
        "odd: unet/config.json is missing",
    } <= lines
    found = json.loads(run("status", "--json").stdout)["template"]
    assert found["skeletons"]["odd"] == "unet/config.json is missing"
    assert found["private_bytes"] == 180 << 20


@pytest.mark.parametrize("state", ["refused", "waiting"])
def test_status_tells_why_there_is_no_template(client: FakeClient, run: Run, state: Any) -> None:
    client.template = TemplateStatus(state=state, reason="it has two threads", forks=3)
    said = run("status").stdout
    assert "it has two threads" in said
    assert "workers so far" not in said, "it gives none"


def test_status_where_no_template_is_wanted(client: FakeClient, run: Run) -> None:
    client.template = TemplateStatus(state="off")
    assert 'off: start_method = "exec"' in run("status").stdout


@pytest.mark.parametrize("verb", ["ps", "models", "jobs"])
def test_lists_are_json_arrays(verb: str, run: Run) -> None:
    assert isinstance(json.loads(run(verb, "--json").stdout), list)
