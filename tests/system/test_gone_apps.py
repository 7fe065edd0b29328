"""Apps that are gone without a word: what it costs others, which is nothing."""

from __future__ import annotations

import psutil
import pytest

from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import Accepted, Submit, from_app
from support.daemon import RunningDaemon
from support.processes import until
from support.raw_app import RawApp

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

TWO = '[models.one]\narchitecture = "echo"\n[models.two]\narchitecture = "echo"\n'


def submit(model: str) -> bytes:
    task = TextToImage(prompts=("a",))
    request = Submit(seq=1, job_id="gone", model=model, task=task, on_disconnect="cancel")
    (header,) = from_app.encode(request)
    return bytes(header)


def test_an_app_that_is_found_to_be_gone_while_a_worker_is_started_for_it() -> None:
    """Its job is cancelled then, in the middle of what is done about it."""
    with RunningDaemon(TWO) as daemon, daemon.client() as client:
        client.pause()
        gone = RawApp(daemon)
        gone.say(submit("one"))
        assert isinstance(gone.hear(), Accepted)
        waiting = client.submit("b", model="two")
        watched = psutil.Process(daemon.pid)
        connected = watched.num_fds()
        gone.close()
        until(lambda: watched.num_fds() < connected, 10, "its connection is closed")
        client.resume()
        assert waiting.result(30).images
        assert {row.id: row.state for row in client.jobs()}["gone"] == "cancelled"
        until(lambda: [row.model for row in client.workers()] == ["two"], 10, "only one is left")
