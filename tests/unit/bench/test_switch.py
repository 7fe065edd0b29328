"""What `switch` refuses before it starts anything, and how a participant takes a visit."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

import _models
import _participant
import switch
from _arms import BenchError, Setting


def test_by_default_seven_rounds_of_all_arms() -> None:
    options = switch.parser().parse_args([])
    assert options.rounds == 7
    assert "in_process_bound" not in options.arms
    assert {"in_process_tuned", "fork", "standby"} < set(options.arms)


@pytest.mark.parametrize(
    "words", [["--arms", "fork,sleep"], ["--size", "huge"], ["--cache", "lukewarm"]]
)
def test_an_option_that_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        switch.parser().parse_args(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(BenchError, match=r"9\.2 GB"):
        _models.made("real", tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_with_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    setting = Setting({"sd15": str(tmp_path)}, "float16", "cpu", read_ahead=False)
    monkeypatch.setattr(switch, "available_memory", lambda: 1 << 30)
    with pytest.raises(BenchError, match=r"1\.1 GB are there; name fewer by --arms"):
        switch._require_memory(setting, ["fork", "standby"])
    monkeypatch.setattr(switch, "available_memory", lambda: 1 << 40)
    switch._require_memory(setting, ["fork", "standby"])


class Recorded:
    """A loader that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def release(self) -> None:
        self.told.append("release")

    def fill(self, model: str, laps: _participant.Laps) -> None:
        with laps.lap("load"):
            self.told.append(model)


def test_a_visit_lets_go_of_the_former_model_first() -> None:
    loader, answers = Recorded(), io.StringIO()
    requests = io.StringIO('{"visit": "sd15"}\n{"visit": null}\n')
    _participant.serve(loader, requests, answers)
    assert loader.told == ["release", "sd15", "release"]
    began, visit, left = (json.loads(line) for line in answers.getvalue().splitlines())
    assert began == {}
    assert visit["seconds"] >= sum(visit["stages"].values())
    assert set(visit["stages"]) == {"release", "load"}
    assert set(left["stages"]) == {"release"}


def test_a_stage_that_comes_twice_counts_twice() -> None:
    laps = _participant.Laps(bind=5.0)
    with laps.lap("bind"):
        pass
    assert laps["bind"] > 5.0
