"""An arm that would measure another thing than its name says ends the benchmark."""

from __future__ import annotations

import tomllib
from typing import Any, cast

import pytest

import _daemons
from _arms import BenchError, Setting
from _daemons import WAYS, await_template, configured, require_as_said, until
from hermetic import Client
from hermetic_wire.messages import TemplateStatus, WorkerRow

SETTING = Setting({"sd15": "/models/sd15"}, "float16", "cpu", read_ahead=True)


def row(**changes: Any) -> WorkerRow:
    """A worker as the fork arm wants it."""
    facts: dict[str, Any] = {
        "model": "sdxl",
        "architecture": "sdxl",
        "epoch": 2,
        "pid": 20,
        "device": "cpu",
        "state": "ready",
        "start_method": "fork",
        "loaded_by": {"unet": "skeleton", "vae": "skeleton"},
    }
    return WorkerRow(**(facts | changes))


class Told:
    """A client of which only the status is asked."""

    def __init__(self, template: TemplateStatus | None) -> None:
        self.template = template

    def status(self) -> Told:
        return self


def waited_for(template: TemplateStatus | None) -> None:
    await_template(cast(Client, Told(template)), ["sd15", "sdxl"])


def test_a_forked_worker_with_skeletons_is_as_said() -> None:
    require_as_said("fork", "sdxl", [row()], None)


@pytest.mark.parametrize(
    ("arm", "found", "why"),
    [
        ("fork", row(start_method="exec"), "came by exec"),
        ("fork", row(loaded_by={"unet": "from_pretrained: stale"}), "stale"),
        ("fork", row(loaded_by={}), "skeleton"),
        ("fork", row(model="sd15"), "no worker"),
        ("hermetic_exec", row(), "came by fork"),
        ("standby", row(), "another than the standby"),
    ],
)
def test_another_way_than_said(arm: str, found: WorkerRow, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        require_as_said(arm, "sdxl", [found], row(pid=19, state="standby"))


def test_a_standby_has_to_be_the_one_that_waited() -> None:
    require_as_said("standby", "sdxl", [row()], row(state="standby", model=""))
    with pytest.raises(BenchError, match="another than the standby"):
        require_as_said("standby", "sdxl", [row()], None)


@pytest.mark.parametrize(
    "template", [None, TemplateStatus(state="refused", reason="it has 2 threads")]
)
def test_a_template_that_is_not_used_ends_the_wait(template: TemplateStatus | None) -> None:
    with pytest.raises(BenchError, match="2 threads" if template else "none"):
        waited_for(template)


def test_a_model_without_a_skeleton_is_named() -> None:
    skeletons = {"sd15": "ready", "sdxl": "vae is quantised"}
    with pytest.raises(BenchError, match=r"sdxl.*quantised"):
        waited_for(TemplateStatus(state="serving", skeletons=skeletons))


def test_a_template_with_all_skeletons_serves() -> None:
    waited_for(TemplateStatus(state="serving", skeletons={"sd15": "ready", "sdxl": "ready"}))


def test_what_never_comes_true_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_daemons, "_POLL_S", 0.0)
    with pytest.raises(BenchError, match="the moon is full"):
        until(lambda: False, 0.0, "the moon is full")


@pytest.mark.parametrize("arm", WAYS)
def test_the_configuration_is_the_arms(arm: str) -> None:
    told = tomllib.loads(configured(WAYS[arm], SETTING))
    assert told["worker"]["start_method"] == ("exec" if arm == "hermetic_exec" else "fork")
    assert told["worker"]["standby"] == ("on" if arm == "standby" else "off")
    assert told["worker"]["smoke"] == "never"
    assert told["worker"]["read_ahead"] is True
    assert told["models"]["sd15"] == {"path": "/models/sd15", "dtype": "float16"}
