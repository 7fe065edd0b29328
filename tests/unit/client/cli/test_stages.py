"""A start and a load are the sums of what was told of them, by whichever way they went."""

from __future__ import annotations

import pytest

from hermetic.cli.stages import of_load, of_start, start_method

FORKED = {"queued": 9.0, "fork": 0.25, "hello": 0.125, "map": 0.5, "bind": 1.0, "smoke": 9.0}
NEW = {"exec": 0.5, "hello": 0.5, "imports": 4.0, "load": 2.0, "place": 1.0, "ready": 9.0}


@pytest.mark.parametrize(
    ("timings", "method", "start", "load"),
    [(FORKED, "fork", 0.375, 1.5), (NEW, "exec", 5.0, 3.0), ({"total": 1.0}, None, None, None)],
)
def test_stages(
    timings: dict[str, float], method: str | None, start: float | None, load: float | None
) -> None:
    assert (start_method(timings), of_start(timings), of_load(timings)) == (method, start, load)
