"""Daemon and template: what the process that workers are forked from is told, and what it says.

    daemon    Setup on standard input, to its end: the catalog and the device's name
    template  Serving, or Refused, after which it ends
    daemon    fork requests: an epoch, a token and two descriptors, never a word more
    template  Forked with the worker's pidfd, or Refused

They talk over a SOCK_SEQPACKET pair, one packet a message. A request has a fixed size, so that
nothing of a job, a prompt or a path can ever reach the template with it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

import msgspec

from . import PROTOCOL
from .codec import Codec
from .errors import MalformedMessage
from .worker import ModelSpec

__all__ = [
    "CONTROL",
    "ForkRequest",
    "Forked",
    "FromTemplate",
    "Refused",
    "Serving",
    "Setup",
    "from_template",
    "setup",
]

CONTROL = 3
"""The descriptor at which the template finds its end of the socket pair."""
TOKEN_BYTES = 32
_REQUEST = struct.Struct(f"!4sQ{TOKEN_BYTES}s")
_MAGIC = b"fork"


class ForkRequest(NamedTuple):
    """One new worker. Its standard input and error travel beside it as descriptors."""

    epoch: int
    token: str
    """32 hexadecimal digits."""

    def encode(self) -> bytes:
        """The packet."""
        return _REQUEST.pack(_MAGIC, self.epoch, self.token.encode("ascii"))

    @classmethod
    def decode(cls, packet: bytes) -> ForkRequest:
        """Raises MalformedMessage for what is no request."""
        if len(packet) != _REQUEST.size or not packet.startswith(_MAGIC):
            raise MalformedMessage(f"A fork request has {_REQUEST.size} bytes, not {len(packet)}.")
        _, epoch, token = _REQUEST.unpack(packet)
        return cls(epoch, token.decode("ascii", errors="replace"))


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: int = PROTOCOL


class Setup(_Message, frozen=True, kw_only=True, tag="setup"):
    """All that a template ever learns: a function of the configuration."""

    models: tuple[ModelSpec, ...]
    """Those with a folder, whose skeletons are built."""
    device: str
    """Its name alone, which decides the default dtype; the template opens no device."""
    endpoint: str
    """Where workers find the daemon."""


class Serving(_Message, frozen=True, kw_only=True, tag="serving"):
    """It has passed its checks and forks from now on."""

    skeletons: dict[str, str]
    """By model: `ready`, or why workers have to load it by `from_pretrained`."""
    timings: dict[str, float]
    """Seconds by stage of its own start."""
    versions: dict[str, str]


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """It is not clean, or cannot be made, and ends; the reason in words."""

    reason: str


class Forked(_Message, frozen=True, kw_only=True, tag="forked"):
    """The worker lives; its pidfd travels beside this as a descriptor."""

    epoch: int
    pid: int


FromTemplate: TypeAlias = Serving | Refused | Forked

setup: Codec[Setup] = Codec(Setup, "set-up of a template")
from_template: Codec[FromTemplate] = Codec(FromTemplate, "message of the template")
