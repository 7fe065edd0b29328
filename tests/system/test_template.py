"""Workers forked from the real template: what kills, stales or refuses it costs no job.

One daemon serves all tests of this module, because each start of a template takes its seconds; so
every test waits until a template serves, and leaves the daemon as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hermetic import Client, Result
from hermetic_wire.messages import JobStep, TemplateStatus, WorkerRow
from support.daemon import FAKES, RunningDaemon
from support.processes import gone, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SERVING_SECONDS = 60.0
SETTINGS: dict[str, Any] = {"seed": 11, "guidance": 7.5, "width": 64, "height": 64}
QUICK_TEMPLATE = f"{sys.executable} {FAKES / 'quick_template.py'}"


def section(name: str, path: Path, dtype: str = "float32") -> str:
    return f'[models.{name}]\npath = "{path}"\ndtype = "{dtype}"\n'


def sections(folders: dict[str, Path]) -> str:
    return "".join(section(name, path) for name, path in folders.items())


@dataclass
class Site:
    """The daemon, its client and its models' folders."""

    daemon: RunningDaemon
    client: Client
    folders: dict[str, Path]

    def configure(self, config: str) -> None:
        """Have the daemon read its file again."""
        self.daemon.configure(config)
        self.daemon.process.send_signal(signal.SIGHUP)

    @property
    def template(self) -> TemplateStatus:
        return template(self.client)

    @property
    def models(self) -> set[str]:
        return {row.name for row in self.client.models()}

    def is_settled(self) -> bool:
        """Whether no other template is being made: what an earlier test has changed is known."""
        log = self.daemon.log.read_text()
        made = max(log.rfind("the template is made anew"), log.rfind("template: it died"))
        return self.template.state == "serving" and log.rfind("template: serving after") > made

    def serves(self) -> TemplateStatus:
        """The template that serves, once one does."""
        until(lambda: self.template.state == "serving", SERVING_SECONDS, "a template serves")
        return self.template

    def serves_anew(self, before: TemplateStatus) -> TemplateStatus:
        """Another one than before."""
        until(lambda: self.template.pid not in (0, before.pid), SERVING_SECONDS, "another one")
        return self.serves()


def template(client: Client) -> TemplateStatus:
    found = client.status().template
    assert found is not None
    return found


def draw(client: Client, model: str, steps: int = 2) -> Result:
    return client.generate("a red circle", model=model, steps=steps, **SETTINGS)


def row_of(client: Client, result: Result) -> WorkerRow:
    (row,) = [row for row in client.workers() if row.pid == result.worker.pid]
    return row


def ways(row: WorkerRow) -> set[str]:
    """How its components came, without the reasons."""
    return {way.partition(":")[0] for way in row.loaded_by.values()}


@pytest.fixture(scope="module")
def folders(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Beside the two models one to change, and one that only `from_pretrained` takes."""
    place = tmp_path_factory.mktemp("own-models")
    own = {name: place / name for name in ("changing", "two-ways")}
    for folder in own.values():
        shutil.copytree(tiny["tiny-sd15"], folder)
    index = own["two-ways"] / "text_encoder" / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {}}')
    return tiny | own


@pytest.fixture(scope="module")
def forking(folders: dict[str, Path]) -> Iterator[RunningDaemon]:
    """A daemon that makes a template of these models."""
    with RunningDaemon(sections(folders), start_method="fork") as running:
        yield running


@pytest.fixture
def site(forking: RunningDaemon, folders: dict[str, Path]) -> Iterator[Site]:
    """The module's daemon, with its models and a template that serves."""
    with forking.client() as client:
        found = Site(forking, client, folders)
        until(found.is_settled, SERVING_SECONDS, "the newest template serves")
        yield found


def test_every_worker_tells_how_it_came_and_every_switch_what_it_cost(site: Site) -> None:
    first, second = (draw(site.client, model) for model in ("tiny-sd15", "tiny-sdxl"))
    row = row_of(site.client, second)
    assert row.start_method == "fork"
    assert row.timings.keys() >= {"fork", "hello"}
    assert ways(row) == {"skeleton"}
    assert row.loaded_by.keys() >= {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert second.timings.keys() >= {"switch", "fork", "hello"}
    assert gone(first.worker.pid)


def test_a_model_that_cannot_be_outlined_is_loaded_whole_and_status_says_why(site: Site) -> None:
    found = site.serves().skeletons
    assert "model.safetensors.index.json" in found["two-ways"]
    assert found["tiny-sd15"] == found["tiny-sdxl"] == "ready"
    result = draw(site.client, "two-ways")
    row = row_of(site.client, result)
    assert (row.start_method, ways(row)) == ("fork", {"from_pretrained"})
    assert any("model.safetensors.index.json" in how for how in row.loaded_by.values())
    assert result.pixels == draw(site.client, "tiny-sd15").pixels, "the same weights"


def test_a_template_killed_in_mid_job_costs_neither_that_job_nor_the_next(site: Site) -> None:
    before = site.serves()
    job = site.client.submit("a red circle", model="tiny-sd15", steps=100, **SETTINGS)
    next(update for update in job if isinstance(update, JobStep))
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: site.template.state != "serving", 20, "its death is known")
    found = site.template
    assert found.state in {"waiting", "starting"}
    assert found.state == "starting" or "SIGKILL" in found.reason
    assert job.result(60).images
    assert draw(site.client, "tiny-sdxl").images
    after = site.serves_anew(before)
    assert after.skeletons == before.skeletons
    result = draw(site.client, "tiny-sd15")
    assert row_of(site.client, result).start_method == "fork"
    assert "template: it died: SIGKILL" in site.daemon.log.read_text()


def test_a_model_is_added_while_a_job_runs_and_that_job_does_not_notice(site: Site) -> None:
    before = site.serves()
    job = site.client.submit("a red circle", model="tiny-sd15", steps=100, **SETTINGS)
    next(update for update in job if isinstance(update, JobStep))
    site.configure(sections(site.folders | {"added": site.folders["tiny-sdxl"]}))
    until(lambda: "added" in site.models, 20, "the model is there")
    (running,) = site.client.workers()
    assert running.model == "tiny-sd15"
    assert job.result(60).worker.pid == running.pid
    assert draw(site.client, "tiny-sd15").worker.pid == running.pid, "its model has not changed"
    assert draw(site.client, "added").images
    after = site.serves_anew(before)
    assert after.skeletons["added"] == "ready"
    draw(site.client, "tiny-sd15")
    assert ways(row_of(site.client, draw(site.client, "added"))) == {"skeleton"}


def test_a_model_whose_entry_changes_is_not_drawn_by_its_old_worker(site: Site) -> None:
    old = draw(site.client, "changing").worker
    others = {name: path for name, path in site.folders.items() if name != "changing"}
    site.configure(sections(others) + section("changing", site.folders["changing"], "bfloat16"))
    until(lambda: gone(old.pid), 20, "its idle worker ends")
    result = draw(site.client, "changing")
    assert result.worker.pid != old.pid
    assert result.images
    site.configure(sections(site.folders))
    until(lambda: gone(result.worker.pid), 20, "and so it does on the way back")


def test_a_broken_configuration_leaves_the_models_as_they_were(site: Site) -> None:
    worker = draw(site.client, "tiny-sd15").worker
    before = site.daemon.log.read_text().count("stays as it was")
    site.configure("[models.tiny-sd15\n")
    until(
        lambda: site.daemon.log.read_text().count("stays as it was") == before + 1,
        20,
        "the daemon says so",
    )
    (line,) = [
        line for line in site.daemon.log.read_text().splitlines()[::-1] if "stays as it was" in line
    ][:1]
    assert "hermetic.toml cannot be read as TOML" in line
    assert set(site.folders) <= site.models
    assert draw(site.client, "tiny-sd15").worker == worker


def test_a_weight_file_replaced_under_the_template_is_noticed_and_it_is_made_anew(
    site: Site,
) -> None:
    before = site.serves()
    expected = draw(site.client, "changing").pixels
    draw(site.client, "tiny-sd15")  # so that the next one is another worker
    file = site.folders["changing"] / "vae" / "diffusion_pytorch_model.safetensors"
    fresh = file.with_suffix(".new")
    shutil.copyfile(file, fresh)
    fresh.replace(file)
    result = draw(site.client, "changing")
    row = row_of(site.client, result)
    assert ways(row) == {"from_pretrained"}
    assert any("files changed" in how for how in row.loaded_by.values())
    after = site.serves_anew(before)
    assert after.skeletons["changing"] == "ready"
    draw(site.client, "tiny-sd15")
    result = draw(site.client, "changing")
    assert ways(row_of(site.client, result)) == {"skeleton"}
    assert result.pixels == expected


@pytest.mark.parametrize(
    ("command", "state", "reason"),
    [
        ("/nonexistent/python -m hermetic_worker.template", "waiting", "/nonexistent/python"),
        (f"{QUICK_TEMPLATE} --refuse=two-threads", "refused", "two-threads"),
    ],
    ids=["missing", "refused"],
)
def test_without_a_template_workers_are_new_interpreters_and_everybody_says_why(
    tiny: dict[str, Path], command: str, state: str, reason: str
) -> None:
    config = sections({"tiny-sd15": tiny["tiny-sd15"]})
    environment = {"HERMETIC_WORKER__TEMPLATE_COMMAND": command}
    with (
        RunningDaemon(config, start_method="fork", environment=environment) as daemon,
        daemon.client() as client,
    ):
        until(lambda: template(client).state == state, 20, state)
        result = draw(client, "tiny-sd15")
        assert row_of(client, result).start_method == "exec"
        assert "exec" in result.timings
        assert reason in template(client).reason
        assert reason in doctor(daemon)["seen"]


def doctor(daemon: RunningDaemon) -> dict[str, str]:
    """What the doctor finds of the daemon's template."""
    done = subprocess.run(
        [sys.executable, "-m", "hermetic.cli", "doctor", "--json"],
        env={**os.environ, "HERMETIC_ENDPOINT": str(daemon.endpoint)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    rows: list[dict[str, str]] = json.loads(done.stdout)
    (found,) = [row for row in rows if row["subject"] == "template"]
    return found
