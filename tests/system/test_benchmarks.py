"""The benchmark of switches, on tiny models: that it runs and tells what was agreed; no speeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

PROJECT = Path(__file__).parents[2]
ARMS = ("in_process_naive", "hermetic_exec", "fork")
DIRECTIONS = ("sd15->sdxl", "sdxl->sd15")


def switch(*words: str) -> subprocess.CompletedProcess[str]:
    """As `scripts/bench switch` runs it."""
    environment = {key: value for key, value in os.environ.items() if "HERMETIC" not in key}
    environment |= {"PYTHONPATH": str(PROJECT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(PROJECT / "bench" / "switch.py"), "--size", "tiny", *words],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The report of one round."""
    done = switch("--rounds", "1", "--arms", ",".join(ARMS), "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_report_has_the_agreed_shape(told: dict[str, Any]) -> None:
    assert list(told) == ["bench", "machine", "versions", "figures", "ratios"]
    assert told["bench"] == "switch"
    for name, figure in told["figures"].items():
        assert set(figure) == {"value", "unit", "n", "p50", "p95"}, name


def test_every_arm_was_measured_in_both_directions(told: dict[str, Any]) -> None:
    for direction in DIRECTIONS:
        for arm in ARMS:
            figure = told["figures"][f"{direction}:{arm}_s"]
            assert figure["n"] == 1, "what comes first, to warm up, counts for nothing"
            assert figure["value"] > 0
        ratios = {f"{direction}:fork/in_process_naive", f"{direction}:exec/in_process_naive"}
        assert ratios <= told["ratios"].keys()


def test_forked_workers_are_told_from_new_interpreters(told: dict[str, Any]) -> None:
    figures = told["figures"]
    assert figures["fork_to_first_instruction_ms"]["n"] == len(DIRECTIONS)
    for direction in DIRECTIONS:
        assert f"{direction}:fork:hello_s" in figures
        assert f"{direction}:fork:imports_s" not in figures
        assert f"{direction}:hermetic_exec:imports_s" in figures
    assert figures["template_private_mib"]["value"] > 0


def test_an_arm_that_is_none_ends_it_before_it_starts() -> None:
    done = switch("--arms", "teleport")
    assert done.returncode == 2
    assert "teleport" in done.stderr
