"""One connection: what has come is heard before its end is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq

from hermetic import _link
from hermetic._link import Link


class _Peer:
    """A ROUTER that one link connects to."""

    def __init__(self, path: Path) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(f"ipc://{path}")

    def meet(self) -> None:
        """Waits for the link's first message."""
        self._link, _ = self._router.recv_multipart()

    def speak_and_die(self, *messages: bytes) -> None:
        """All of them are sent by the time this returns, and the connection is over."""
        for message in messages:
            self._router.send_multipart([self._link, message])
        self._router.close(linger=-1)
        self._context.term()


async def _heard(link: Link) -> list[bytes]:
    """Every message until the end."""
    heard = []
    while (frames := await link.receive()) is not None:
        heard.append(b"".join(frames))
    return heard


def test_a_message_that_comes_with_the_end_just_when_none_was_found(
    endpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = _Peer(endpoint)
    look = _link._is_readable
    looked_at: list[zmq.Socket[bytes]] = []

    def look_too_soon(one: zmq.Socket[bytes]) -> bool:
        """Finds no message; by the next look, at the monitor, there are two and the end."""
        looked_at.append(one)
        if len(looked_at) == 2:
            assert one.poll(10_000), "the connection does not end"
        found = look(one)
        if len(looked_at) == 1:
            peer.speak_and_die(b"first", b"last")
        return found

    async def scenario(context: zmq.Context[zmq.Socket[bytes]]) -> list[bytes]:
        link = Link(context, endpoint)
        try:
            await link.send([b"hello"])
            peer.meet()
            monkeypatch.setattr(_link, "_is_readable", look_too_soon)
            return await _heard(link)
        finally:
            link.close()

    with zmq.Context() as context:
        assert asyncio.run(scenario(context)) == [b"first", b"last"]
