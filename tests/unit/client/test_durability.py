"""What the client does while its daemon dies, and what it says when it goes itself."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hermetic import Client, Preview, StoreUnavailable
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import Bye, Follow, GetStatus, Submit
from unit.client.fake_daemon import FakeDaemon, succeeded


def test_the_daemon_dies_between_submit_and_accepted(daemon: FakeDaemon, client: Client) -> None:
    client.status()
    daemon.mute = True
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(
            client.generate, "a", model="demo-sd15", seed=5, expires_in="5m", priority="low"
        )
        said = daemon.await_request(Submit)
        daemon.stop()
        daemon.mute = False
        daemon.start()
        again = daemon.await_request(Submit)
        assert drawn.result().seeds == [5]
    assert again == said
    assert (again.expires_in, again.priority) == (300.0, "low")


def test_two_restarts_while_a_result_is_waited_for(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("wait", model="demo-sd15", preview_seconds=2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job.result)
        for _ in range(2):
            daemon.stop()
            daemon.start()
            followed = daemon.await_request(Follow)
            assert (followed.job_id, followed.preview_seconds) == (job.id, 2.0)
        daemon.say(*succeeded(job.id, TextToImage(prompts=("a",))))
        assert len(waiting.result().images) == 1


def test_the_disk_is_full_and_the_app_is_told_when_to_come_again(client: Client) -> None:
    with pytest.raises(StoreUnavailable, match="disk is full") as refused:
        client.submit("full", model="demo-sd15")
    assert refused.value.retry_after == 5.0


def test_a_preview_comes_with_its_pixels(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("preview", model="demo-sd15", preview_seconds=0.5)
    [preview] = [update for update in job if isinstance(update, Preview)]

    assert daemon.await_request(Submit).preview_seconds == 0.5
    assert (preview.job_id, preview.step, preview.size) == (job.id, 1, (2, 1))
    assert bytes(preview.pixels) == b"\1\2\3\4\5\6"
    assert preview.image.getpixel((1, 0)) == (4, 5, 6)
    assert repr(preview) == f"<Preview of job {job.id} at step 1: 2x1>"


def test_previews_are_asked_for_when_a_job_is_taken_hold_of(
    daemon: FakeDaemon, client: Client
) -> None:
    job = client.submit("preview", model="demo-sd15")
    client.job(job.id, preview_seconds="1s")
    assert daemon.await_request(Follow).preview_seconds == 1.0


def test_a_client_that_is_closed_twice_says_goodbye_once(daemon: FakeDaemon) -> None:
    client = Client(daemon.path)
    client.status()
    client.close()
    client.close()
    daemon.await_request(Bye)
    with Client(daemon.path) as other:
        other.status()
    requests = [daemon.await_request(GetStatus), daemon.await_request(Bye)]
    assert daemon.seen.empty(), requests


def test_a_client_that_never_spoke_says_no_goodbye(daemon: FakeDaemon) -> None:
    with Client(daemon.path):
        pass
    with Client(daemon.path) as other:
        other.status()
    daemon.await_request(Bye)
    assert daemon.seen.empty()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_that_ends_says_no_goodbye(daemon: FakeDaemon) -> None:
    client = Client(daemon.path)
    client.status()
    pid = os.fork()
    if pid == 0:
        client.close()
        os._exit(0)
    os.waitpid(pid, 0)
    client.status()
    daemon.await_request(GetStatus)
    assert isinstance(daemon.seen.get(timeout=10), GetStatus)
    client.close()
    daemon.await_request(Bye)


_FORGETFUL_APP = """
import sys
from hermetic import Client
Client(sys.argv[1]).submit("wait", model="demo-sd15", on_disconnect="cancel")
"""


def test_an_app_that_just_ends_has_said_goodbye(daemon: FakeDaemon) -> None:
    subprocess.run([sys.executable, "-c", _FORGETFUL_APP, str(daemon.path)], check=True, timeout=20)
    assert daemon.await_request(Submit).on_disconnect == "cancel"
    daemon.await_request(Bye)
