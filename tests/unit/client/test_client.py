"""The blocking client against a fake daemon on a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermetic import (
    Client,
    DaemonUnreachable,
    GenerationFailed,
    HermeticError,
    InvalidConfiguration,
    InvalidParameter,
    JobCancelled,
    JobFailed,
    JobStep,
    JobSucceeded,
    JobUpdate,
    MalformedMessage,
    ResultTimeout,
    UnknownJob,
    UnknownModel,
)
from hermetic._core import Core
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import Cancel, Follow, Hello, JobRunning, ListJobs, Stop, Submit
from unit.client.fake_daemon import MODEL, FakeDaemon, succeeded


def test_generate_yields_images_with_their_seeds(client: Client) -> None:
    result = client.generate(["a", "b"], model="demo-sd15", seed=7)

    assert [image.getpixel((1, 0)) for image in result.images] == [(7, 0, 255), (8, 0, 255)]
    assert result.seeds == [7, 8]
    assert result.sizes == [(2, 1), (2, 1)]
    assert (result.worker.epoch, result.timings, result.memory["resident"]) == (
        3,
        {"total": 0.5},
        1000,
    )


def test_a_job_is_iterated_to_its_end_and_has_a_result(client: Client) -> None:
    job = client.submit("a", model="demo-sd15", job_id="mine")
    updates = list(job)

    assert job.id == "mine"
    assert isinstance(updates[-1], JobSucceeded)
    assert job.state == "succeeded"
    assert list(job) == updates[-1:]
    assert len(job.result().images) == 1


def test_iterating_a_failed_job_raises_nothing_and_its_result_does(client: Client) -> None:
    job = client.submit("fail", model="demo-sd15")

    assert isinstance(list(job)[-1], JobFailed)
    for _ in range(2):
        with pytest.raises(GenerationFailed, match="It raised") as caught:
            job.result()
        assert caught.value.report == "Traceback"


def test_patience_ends_and_the_job_goes_on(client: Client) -> None:
    job = client.submit("wait", model="demo-sd15")

    with pytest.raises(ResultTimeout, match=job.id):
        job.result(timeout=0.01)
    with pytest.raises(ResultTimeout):
        client.generate("quiet", model="demo-sd15", timeout=0.01, on_update=lambda _: None)
    assert job.cancel() == "Cancelled."
    with pytest.raises(JobCancelled):
        job.result()
    assert job.state == "cancelled"


def test_updates_are_told_in_the_callers_thread(client: Client) -> None:
    told: list[tuple[int, JobUpdate]] = []
    client.generate(
        "a", model="demo-sd15", on_update=lambda u: told.append((threading.get_ident(), u))
    )

    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert isinstance(told[-1][1], JobSucceeded)


def test_an_exception_of_on_update_cancels_the_job(daemon: FakeDaemon, client: Client) -> None:
    def fall(update: JobUpdate) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.generate("wait", model="demo-sd15", job_id="mine", on_update=fall)
    assert daemon.await_request(Cancel).job_id == "mine"


def test_reading_and_acting(client: Client) -> None:
    assert client.models() == [MODEL]
    assert client.model("demo-sd15") == MODEL
    with pytest.raises(UnknownModel, match="nothing"):
        client.model("nothing")
    assert client.jobs()[0].id == "j"
    assert client.workers()[0].epoch == 3
    assert client.status().state == "serving"
    assert client.pause() == "Paused."
    assert client.resume() == "Jobs are begun."
    assert client.unload("demo-sd15") == "demo-sd15 is unloaded."
    assert client.stop("drain") == "The daemon ends: drain."
    assert client.load("demo-sd15").result().images == []


def test_a_job_is_taken_hold_of_by_another_client(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("a", model="demo-sd15")
    with Client(daemon.path) as other:
        assert other.job(job.id).result().pixels == job.result().pixels
        with pytest.raises(UnknownJob):
            other.job("never")
        with pytest.raises(UnknownJob):
            other.cancel("never")


def test_the_app_is_named(daemon: FakeDaemon, client: Client) -> None:
    client.status()
    assert daemon.await_request(Hello).app == "test"


def test_wrong_arguments_are_refused_before_anything_is_sent(endpoint: Path) -> None:
    with Client(endpoint) as client:  # where nobody listens
        with pytest.raises(InvalidParameter):
            client.generate("a", model="demo-sd15", steps=0)
        with pytest.raises(InvalidParameter):
            client.submit("a", model="demo-sd15", job_id="no spaces")
    with pytest.raises(InvalidConfiguration, match="tcp"):
        Client("tcp://127.0.0.1:1")


def test_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda seed: client.generate("a", model="demo-sd15", seed=seed), range(24))
        )

    assert [result.pixels[0][0] for result in results] == list(range(24))


def test_an_absent_daemon_is_told_at_once(endpoint: Path) -> None:
    with Client(endpoint) as client, pytest.raises(DaemonUnreachable, match="hermetic serve") as e:
        client.status()
    assert str(endpoint) in e.value.message


def test_a_stale_socket_is_told_at_once(endpoint: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(endpoint))
    with Client(endpoint) as client, pytest.raises(DaemonUnreachable, match="any more"):
        client.status()


def test_a_daemon_that_does_not_answer_is_told_in_time(daemon: FakeDaemon) -> None:
    daemon.mute = True
    with Client(daemon.path, connect_timeout=0.05) as client:
        with pytest.raises(DaemonUnreachable, match="did not answer"):
            client.status()
        daemon.mute = False
        assert client.status().pid == 1


def test_a_restart_between_two_calls_is_not_noticed(daemon: FakeDaemon, client: Client) -> None:
    client.status()
    daemon.stop()
    daemon.start()
    assert client.models() == [MODEL]


def test_what_was_not_acknowledged_is_asked_again(daemon: FakeDaemon, client: Client) -> None:
    client.status()
    daemon.mute = True
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.submit(client.generate, "a", model="demo-sd15", seed=5, job_id="mine")
        assert daemon.await_request(Submit).job_id == "mine"
        listed = pool.submit(client.jobs)
        daemon.await_request(ListJobs)
        daemon.stop()
        daemon.mute = False
        daemon.start()
        assert drawn.result().seeds == [5]
        assert listed.result()[0].id == "j"


def test_a_job_that_the_next_daemon_does_not_know(daemon: FakeDaemon, client: Client) -> None:
    daemon.forgetful = True
    job = client.submit("wait", model="demo-sd15")
    daemon.stop()
    daemon.start()
    with pytest.raises(UnknownJob, match="restarted"):
        job.result()
    assert daemon.await_request(Follow).job_id == job.id
    with pytest.raises(UnknownJob):
        list(job)


def test_a_daemon_that_stays_away(daemon: FakeDaemon) -> None:
    with Client(daemon.path, reconnect_timeout=0.05) as client:
        job = client.submit("wait", model="demo-sd15")
        daemon.stop()
        try:
            with pytest.raises(DaemonUnreachable, match="did not come back"):
                job.result()
            with pytest.raises(DaemonUnreachable, match="hermetic serve"):
                client.status()
        finally:
            daemon.start()


def test_a_stop_is_not_repeated_to_the_next_daemon(daemon: FakeDaemon, client: Client) -> None:
    client.status()
    daemon.mute = True
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(client.stop)
        daemon.await_request(Stop)
        daemon.stop()
        assert stopped.result() == "The daemon has ended."
    daemon.mute = False
    daemon.start()


def test_pixels_that_do_not_fit_their_sizes(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("wait", model="demo-sd15")
    end, raw = succeeded(job.id, TextToImage(prompts=("a",)))
    daemon.say(end, [bytes(raw[0])[:-1]])
    with pytest.raises(MalformedMessage, match="raw frames"):
        job.result()


def test_news_of_a_kind_unknown_here_is_passed_over(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("wait", model="demo-sd15")
    daemon.say(b"\xc1")
    daemon.say(JobRunning(job_id="another", epoch=1, pid=1))
    daemon.say(*succeeded(job.id, TextToImage(prompts=("a",))))
    assert len(job.result().images) == 1


def test_closing_while_it_connects_ends_the_wait(daemon: FakeDaemon) -> None:
    daemon.mute = True
    client = Client(daemon.path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.status)
        daemon.await_request(Hello)
        client.close()
        with pytest.raises(DaemonUnreachable, match="closed"):
            waiting.result()


def test_a_bug_in_the_connection_leaves_nobody_waiting(
    daemon: FakeDaemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object) -> None:
        raise ZeroDivisionError

    client.status()
    with monkeypatch.context() as patch:
        patch.setattr(Core, "receive", fall)
        with pytest.raises(HermeticError, match="ZeroDivisionError"):
            client.status()
    assert client.status().pid == 1


def test_a_closed_client_says_so(daemon: FakeDaemon) -> None:
    client = Client(daemon.path)
    job = client.submit("wait", model="demo-sd15")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [type(update) for update in job])
        client.close()
        client.close()
        with pytest.raises((DaemonUnreachable, RuntimeError), match="closed"):
            waiting.result()
    with pytest.raises(RuntimeError, match="closed"):
        client.status()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_is_told_to_make_its_own(client: Client) -> None:
    client.status()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client.status()
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with open(reading, "rb") as said:
        assert b"make a new client here" in said.read()
    assert client.status().pid == 1


_WAITING_APP = """
import signal, sys
from hermetic import Client
# As in a terminal, also where the tests themselves were started in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
client = Client(sys.argv[1])
try:
    client.generate("wait", model="demo-sd15", job_id="mine")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_the_wait_and_the_job(daemon: FakeDaemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING_APP, str(daemon.path)], stdout=subprocess.PIPE, text=True
    ) as app:
        daemon.await_request(Submit)
        app.send_signal(signal.SIGINT)
        try:
            assert app.communicate(timeout=10)[0] == "interrupted\n"
        finally:
            app.kill()
    assert app.returncode == 0
    assert daemon.await_request(Cancel).job_id == "mine"


_FORGETFUL_APP = """
import sys
from hermetic import Client
print(Client(sys.argv[1]).submit("wait", model="demo-sd15").state)
"""


def test_an_app_that_never_closes_its_client_ends_quietly(daemon: FakeDaemon) -> None:
    command = [sys.executable, "-X", "dev", "-c", _FORGETFUL_APP, str(daemon.path)]
    app = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (app.returncode, app.stderr) == (0, "")
    assert app.stdout in {"queued\n", "running\n"}


def test_steps_of_a_slow_app_are_reduced_to_the_newest(daemon: FakeDaemon, client: Client) -> None:
    job = client.submit("quiet", model="demo-sd15")
    for step in range(1, 50):
        daemon.say(JobStep(job_id=job.id, step=step, steps=50))
    daemon.say(*succeeded(job.id, TextToImage(prompts=("a",))))
    job.result()

    first, second = job
    assert isinstance(first, JobStep)
    assert first.step == 49
    assert isinstance(second, JobSucceeded)
