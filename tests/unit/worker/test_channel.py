"""The worker's socket against a real ROUTER."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from hermetic_wire.generation import Image, Output
from hermetic_wire.worker import Cancel, Done, Hello, Quit
from hermetic_worker.channel import Channel, ProtocolBroken
from hermetic_worker.stopping import StopRequest

from .conftest import DaemonEnd

HELLO = Hello(epoch=1, token="t", pid=1, version="0")


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    yield request
    request.close()


@pytest.fixture
def channel(daemon_end: DaemonEnd, stop: StopRequest) -> Iterator[Channel]:
    """A channel that has introduced itself."""
    channel = Channel(daemon_end.endpoint, stop)
    channel.send(HELLO)
    assert daemon_end.expect(Hello) == HELLO
    yield channel
    channel.close()


def test_messages_come_in_order(channel: Channel, daemon_end: DaemonEnd) -> None:
    daemon_end.send(Cancel(job_id="a"))
    daemon_end.send(Quit())
    assert [channel.receive(), channel.receive()] == [Cancel(job_id="a"), Quit()]


def test_a_poll_does_not_wait(channel: Channel) -> None:
    assert channel.poll() is None


def test_a_wait_ends_with_the_stop_request(channel: Channel, stop: StopRequest) -> None:
    stop.request()
    assert channel.receive() is None


def test_large_frames_arrive_whole(channel: Channel, daemon_end: DaemonEnd) -> None:
    """Zero-copy: many are under way at once, and their owners are gone before they leave."""
    expected = []
    for number in range(8):
        frame = bytes([number]) * (1 << 20)
        expected.append(hashlib.sha256(frame).digest())
        image = Image(width=1, height=1)
        channel.send(Done(epoch=1, job_id=str(number), output=Output(images=(image,))), [frame])
        del frame
    found = [hashlib.sha256(daemon_end.receive()[1][0]).digest() for _ in range(8)]
    assert found == expected


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5hello"])
def test_what_is_no_message_to_a_worker_breaks_the_protocol(
    channel: Channel, daemon_end: DaemonEnd, frame: bytes
) -> None:
    daemon_end.send_frames([frame])
    with pytest.raises(ProtocolBroken):
        channel.receive()
