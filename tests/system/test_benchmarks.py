"""The benchmarks, made small: that they run and tell what was agreed, and no speeds. The soak is a
test by itself: it fails where anything was lost."""

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


def bench(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """As `scripts/bench` runs it."""
    environment = {key: value for key, value in os.environ.items() if "HERMETIC" not in key}
    environment |= {"PYTHONPATH": str(PROJECT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(PROJECT / "bench" / f"{name}.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
    )


def switch(*words: str) -> subprocess.CompletedProcess[str]:
    """On tiny models."""
    return bench("switch", "--size", "tiny", *words)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The report of one round."""
    return report_of(switch("--rounds", "1", "--arms", ",".join(ARMS), "--json"))


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


def test_workers_daemons_and_apps_are_killed_and_no_job_is_lost() -> None:
    told = report_of(bench("soak", "--small", "--seed", "4", "--json"))
    values = {name: figure["value"] for name, figure in told["figures"].items()}
    assert values["jobs_acknowledged"] == 120
    assert values["ends_asked_again"] == 120
    for name in ("lost", "duplicated", "crossed", "unexplained", "orphans"):
        assert values[name] == 0, name
    assert values["faults/daemon_killed"] == 3
    assert sum(values[name] for name in values if name.startswith("faults/worker_killed/")) == 3
    assert values["faults/app_left"] == 3


def test_a_job_that_does_nothing_is_compared_with_other_ways_of_doing_nothing() -> None:
    words = ("--rounds", "2", "--jobs", "60", "--clients", "6", "--json")
    told = report_of(bench("overhead", *words))
    assert told["machine"]["settings"]["clients"] == 6
    for name in ("submit_to_result_ms", "http_ms", "function_ms", "limit_ms"):
        assert told["figures"][name]["n"] == 2, "what comes first, to warm up, counts for nothing"
    for name in ("durable", "apps", "http", "limit"):
        assert told["figures"][f"{name}_jobs_per_s"]["value"] > 0
    assert {"until_accepted_ms", "until_result_ms"} <= told["figures"].keys()
    assert {"submit_to_result/http", "submit_to_result/function"} <= told["ratios"].keys()


def test_the_daemon_and_a_bare_loop_draw_the_same_pictures() -> None:
    words = ("--rounds", "1", "--images", "1", "--steps", "2", "--threads", "1", "--json")
    told = report_of(bench("steady", *words))
    assert told["bench"] == "steady"
    assert told["ratios"].keys() == {"daemon/bare", "ahead/bare"}
    assert told["figures"]["around_the_worker_ms"]["n"] == 1
