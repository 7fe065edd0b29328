"""An app that floods the daemon delays another app's job by a few of its own, and no more."""

from __future__ import annotations

import pytest

from hermetic import Client
from hermetic_wire.messages import JobRow
from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

FLOOD = 1000
MOST_OVERTAKEN = 16
"""docs/dispatching.md: K is at most this."""
OTHER = '[models.other]\narchitecture = "echo"\n'


def begun(client: Client) -> dict[str, JobRow]:
    """The jobs that have been given to a worker, by id."""
    return {row.id: row for row in client.jobs() if row.started_at is not None}


@pytest.mark.parametrize(
    ("model", "bound"),
    [
        ("echo", 2),  # the flood's first, which came before, and the one that was running
        ("other", 2 + MOST_OVERTAKEN),  # and as many as may save a switch
    ],
)
def test_a_thousand_jobs_of_one_app_delay_anothers_only_one(model: str, bound: int) -> None:
    with (
        RunningDaemon(OTHER) as daemon,
        daemon.client("flood") as flood,
        daemon.client("quiet") as quiet,
    ):
        flood.load("echo").result(30)
        quiet.pause()
        for _ in range(FLOOD):
            flood.submit("a", model="echo", steps=2, width=8, height=8, step_seconds=0.005)
        single = quiet.submit("b", model=model, steps=1, width=8, height=8)
        assert quiet.status().queued == FLOOD + 1
        quiet.resume()
        single.result(60)
        quiet.pause()
        rows = begun(quiet)
        at = rows.pop(single.id).started_at or 0.0
        before = [row for row in rows.values() if row.app == "flood" and (row.started_at or 0) < at]
        assert len(before) - 1 <= bound, "beside the load that was asked for first"
        assert quiet.status().queued > FLOOD / 2, "the flood has hardly begun"
