"""The configuration: where it comes from, and what is said of one that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermetic_daemon import config
from hermetic_wire.errors import InvalidConfiguration


def test_a_first_run_needs_no_file(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "absent.toml", {})
    assert settings.worker.step_seconds > 0
    assert settings.models == {}


def test_the_environment_is_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hermetic.toml"
    file.write_text('device = "cuda:1"\n[worker]\nstep_seconds = 5\nload_seconds = 6\n')
    environment = {"HERMETIC_DEVICE": "cpu", "HERMETIC_WORKER__STEP_SECONDS": "7.5"}
    settings = config.load(file, environment)
    assert (settings.device_name, settings.worker.step_seconds) == ("cpu", 7.5)
    assert settings.worker.load_seconds == 6


def test_a_models_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "hermetic.toml"
    file.write_text('[models.mine]\npath = "~/models/mine"\n')
    assert config.load(file, {}).models["mine"].path == tmp_path / "models" / "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device = ", "cannot be read as TOML"),
        ("[worker]\nstep_second = 5\n", "step_second"),
        ('[worker]\nstep_seconds = "soon"\n', "step_seconds"),
        ('[worker]\nstart_method = "magic"\n', "start_method"),
        ('[models.m]\narchitecture = "sd15"\n', "architecture"),
        ('[model.m]\npath = "x"\n', "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "hermetic.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfiguration, match=words) as refused:
        config.load(file, {})
    assert str(file) in refused.value.message


def test_a_misspelt_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="step_second"):
        config.load(tmp_path / "absent.toml", {"HERMETIC_WORKER__STEP_SECOND": "5"})
