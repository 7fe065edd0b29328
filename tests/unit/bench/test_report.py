"""The report as programs read it, and the options that all benchmarks share."""

from __future__ import annotations

import json

import pytest

from _report import arguments, tell
from hermetic.cli.bench.figures import Samples


def test_the_report_has_these_parts_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    samples = Samples()
    for value in (3.0, 1.0, 2.0):
        samples.add("a->b:fork_s", "s", value)
    tell("switch", "cpu", samples, {"a->b:fork/in_process_naive": 0.5}, True, {"size": "tiny"})
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["bench", "machine", "versions", "figures", "ratios"]
    assert told["bench"] == "switch"
    assert told["machine"]["settings"] == {"size": "tiny"}
    assert told["figures"] == {
        "a->b:fork_s": {"value": 2.0, "unit": "s", "n": 3, "p50": 2.0, "p95": 3.0}
    }
    assert told["ratios"] == {"a->b:fork/in_process_naive": 0.5}


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    samples = Samples()
    samples.add("switch_s", "s", 0.25)
    tell("switch", "cpu", samples, {"one/other": 0.5}, False)
    told = capsys.readouterr().out
    assert "switch_s" in told
    assert "0.250" in told
    assert "one/other" in told


@pytest.mark.parametrize("text", ["0", "-1", "some"])
def test_a_number_of_rounds_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments("", rounds=7).parse_args(["--rounds", text])
    assert caught.value.code == 2
    assert "--rounds" in capsys.readouterr().err


def test_what_has_no_rounds_takes_none() -> None:
    assert "rounds" not in arguments("", rounds=None).parse_args([])
