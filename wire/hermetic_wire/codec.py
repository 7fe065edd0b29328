"""Messages to frames and back: msgpack bytes, and msgspec to check the types.

Frame 0 is a msgpack map `{v, type, ...}`; further frames are raw bytes that belong to it, such as
pixels. Never pickle, never anything that runs. What is not understood raises one of two errors:
MalformedMessage or MessageTooLarge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgpack
import msgspec

from .errors import MalformedMessage, MessageTooLarge

__all__ = ["MAX_DEPTH", "MAX_FRAMES", "MAX_HEADER_BYTES", "MAX_RAW_BYTES", "Codec", "Frame"]

Frame: TypeAlias = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 1 << 20
MAX_RAW_BYTES = 256 << 20
"""All raw frames of one message together: 85 images of 1024 x 1024 RGB."""
MAX_FRAMES = 257
MAX_STRING_BYTES = 256 << 10
MAX_ITEMS = 4096
"""Entries in one map or one list."""
MAX_DEPTH = 16

_encoder = msgspec.msgpack.Encoder()
Message = TypeVar("Message", bound=msgspec.Struct)


class Codec(Generic[Message]):
    """Encodes and decodes the messages of one tagged union.

    `kinds` is the union (or one class); `name` names the direction in error messages.
    """

    def __init__(self, kinds: Any, name: str) -> None:
        self._kinds = kinds
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._name = name

    def encode(self, message: Message, raw: Sequence[Frame] = ()) -> list[Frame]:
        """The frames to send. Raises MessageTooLarge rather than send what no peer would take."""
        header = _encoder.encode(message)
        _check_sizes(header, raw)
        return [header, *raw]

    def decode(self, frames: Sequence[Frame]) -> tuple[Message, list[Frame]]:
        """The message and its raw frames. Raises MalformedMessage or MessageTooLarge."""
        if not frames:
            raise MalformedMessage(f"A {self._name} has at least one frame; this one has none.")
        header, raw = frames[0], list(frames[1:])
        _check_sizes(header, raw)
        # Nothing so small can be over a limit, but for the depth of fields that nobody knows. What
        # is wrong with a header is told by the slow way, in words.
        if len(header) <= MAX_ITEMS:
            try:
                return self._decoder.decode(header), raw
            except (msgspec.MsgspecError, RecursionError):
                pass
        return self.convert(unpack(header)), raw

    def convert(self, fields: Any) -> Message:
        """A typed message from an unpacked header; unknown fields are ignored."""
        try:
            message: Message = msgspec.convert(fields, self._kinds)
        except msgspec.ValidationError as error:
            raise MalformedMessage(f"This is no valid {self._name}: {error}.") from error
        return message


def unpack(header: Frame) -> Any:
    """The header's plain data, within every limit. Raises MalformedMessage or MessageTooLarge."""
    try:
        fields = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=MAX_STRING_BYTES,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    # Whatever bytes make msgpack raise, the sender is to blame: ValueError and its kin, an
    # unhashable map key (TypeError), nesting deeper than its stack.
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error) or type(error).__name__
        if "exceeds max" in reason:
            raise MessageTooLarge(f"The header has a part over its limit: {reason}.") from error
        raise MalformedMessage(f"The header is no msgpack map: {reason}.") from error
    _check_depth(fields, MAX_DEPTH)
    return fields


def _check_sizes(header: Frame, raw: Sequence[Frame]) -> None:
    if len(header) > MAX_HEADER_BYTES:
        raise MessageTooLarge(
            f"The header has {len(header):,} bytes; at most {MAX_HEADER_BYTES:,} are allowed."
        )
    if len(raw) >= MAX_FRAMES:
        raise MessageTooLarge(
            f"The message has {len(raw) + 1:,} frames; at most {MAX_FRAMES} are allowed."
        )
    total = sum(memoryview(frame).nbytes for frame in raw) if raw else 0
    if total > MAX_RAW_BYTES:
        raise MessageTooLarge(
            f"The raw frames have {total:,} bytes; at most {MAX_RAW_BYTES:,} are allowed."
        )


def _check_depth(value: Any, allowed: int) -> None:
    """Calls itself for containers only: most of what is looked at holds nothing."""
    if allowed == 0 and isinstance(value, (dict, list)):
        raise MessageTooLarge(f"The header is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        if isinstance(item, (dict, list)):
            _check_depth(item, allowed - 1)
