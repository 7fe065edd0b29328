"""Messages to frames and back, within limits, whatever the bytes."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic_wire import codec, worker
from hermetic_wire.codec import Codec, unpack
from hermetic_wire.errors import ErrorBody, MalformedMessage, MessageTooLarge
from hermetic_wire.generation import Output, TextToImage
from hermetic_wire.messages import (
    FromApp,
    FromDaemon,
    GetStatus,
    JobSucceeded,
    Submit,
    from_app,
    from_daemon,
)

_DIRECTIONS: list[tuple[Codec[Any], Any]] = [
    (from_app, FromApp),
    (from_daemon, FromDaemon),
    (worker.from_worker, worker.FromWorker),
    (worker.to_worker, worker.ToWorker),
]

# Struct fields that Hypothesis would fill with more than msgpack holds or the limits allow.
for _kind, _strategy in {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
}.items():
    st.register_type_strategy(_kind, _strategy)


def _kinds(union: Any) -> list[type[msgspec.Struct]]:
    return list(get_args(union))


@pytest.mark.parametrize(("direction", "union"), _DIRECTIONS)
@given(data=st.data())
def test_every_message_survives_the_way(
    direction: Codec[Any], union: Any, data: st.DataObject
) -> None:
    message = data.draw(st.sampled_from(_kinds(union)).flatmap(_instances))
    raw = data.draw(st.lists(st.binary(max_size=8), max_size=3))

    assert direction.decode(direction.encode(message, raw)) == (message, raw)


def _instances(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a struct, by the types of its fields."""
    hints = {f.name: f.type for f in msgspec.structs.fields(kind)}
    return st.fixed_dictionaries({name: _values(hint) for name, hint in hints.items()}).map(
        lambda fields: kind(**fields)
    )


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _instances(hint)
    arguments = get_args(hint)
    match getattr(hint, "__origin__", None) or type(hint):
        case origin if origin is tuple:
            return st.lists(_values(arguments[0]), max_size=2).map(tuple)
        case origin if origin is dict:
            return st.dictionaries(st.text(max_size=5), _values(arguments[1]), max_size=2)
        case _ if hint not in (int, float, str) and arguments and "Literal" not in repr(hint):
            return st.one_of([_values(argument) for argument in arguments])
        case _:
            return st.from_type(hint)


@pytest.mark.parametrize(("direction", "union"), _DIRECTIONS)
@given(frames=st.lists(st.binary(max_size=200), max_size=3))
def test_arbitrary_bytes_are_refused_in_words(
    direction: Codec[Any], union: Any, frames: list[bytes]
) -> None:
    with contextlib.suppress(MalformedMessage, MessageTooLarge):
        direction.decode(frames)


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.sampled_from([kind.__struct_config__.tag for kind in _kinds(FromApp)]), _PLAIN)
def test_any_value_for_any_field_is_taken_or_refused(tag: str, value: object) -> None:
    names = ["seq", "job_id", "model", "task", "mode", "app", "version", "v"]
    header = msgpack.packb({"type": tag, **dict.fromkeys(names, value)})
    with contextlib.suppress(MalformedMessage, MessageTooLarge):
        from_app.decode([header])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"type": "submit", "seq": "1"}, "seq"),
        ({"type": "get_status", "seq": 1.5}, "seq"),
        ({"type": "get_status", "seq": None}, "seq"),
        ({"type": "get_status"}, "seq"),
        ({"type": "dream", "seq": 1}, "dream"),
        ({"seq": 1}, "type"),
        ([1], "request"),
        (None, "request"),
    ],
)
def test_the_refusal_names_what_is_wrong(fields: object, word: str) -> None:
    with pytest.raises(MalformedMessage, match=word):
        from_app.decode([msgpack.packb(fields)])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb({"a": 1}) + b"\x00",
        b"\x81\x80\x01",  # a map as a key
        b"\xa1\xff",  # no UTF-8
        b"\x91" * 5000,
        msgpack.packb({1: 2}),
    ],
)
def test_bytes_that_are_no_header(header: bytes) -> None:
    with pytest.raises((MalformedMessage, MessageTooLarge), match=r"\.$"):
        from_app.decode([header])


def test_no_frames_are_no_message() -> None:
    with pytest.raises(MalformedMessage, match="at least one frame"):
        from_app.decode([])


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "fields",
    [
        "x" * (codec.MAX_STRING_BYTES + 1),
        b"x" * (codec.MAX_STRING_BYTES + 1),
        [0] * (codec.MAX_ITEMS + 1),
        {str(key): 0 for key in range(codec.MAX_ITEMS + 1)},
        _deep(codec.MAX_DEPTH + 1),
        msgpack.ExtType(5, b"x"),
    ],
    ids=["string", "bytes", "list", "map", "depth", "extension"],
)
def test_parts_over_their_limit(fields: object) -> None:
    with pytest.raises((MessageTooLarge, MalformedMessage)):
        unpack(msgpack.packb(fields))


@pytest.mark.parametrize(
    "fields",
    ["x" * codec.MAX_STRING_BYTES, [0] * codec.MAX_ITEMS, _deep(codec.MAX_DEPTH)],
    ids=["string", "list", "depth"],
)
def test_parts_at_their_limit(fields: object) -> None:
    assert unpack(msgpack.packb(fields)) == fields


def test_frames_over_their_limits() -> None:
    header = msgpack.packb({"type": "get_status", "seq": 1})
    with pytest.raises(MessageTooLarge, match="header has"):
        from_app.decode([header + bytes(codec.MAX_HEADER_BYTES)])
    with pytest.raises(MessageTooLarge, match="frames"):
        from_app.decode([header] * (codec.MAX_FRAMES + 1))
    halves = [bytes(codec.MAX_RAW_BYTES // 2 + 1)] * 2
    with pytest.raises(MessageTooLarge, match="raw frames"):
        from_app.encode(GetStatus(seq=1), halves)


def test_a_message_too_large_for_any_peer_is_not_sent() -> None:
    task = TextToImage(prompts=("x" * codec.MAX_HEADER_BYTES,))
    with pytest.raises(MessageTooLarge, match="header"):
        from_app.encode(Submit(seq=1, job_id="j", model="m", task=task))


def test_raw_frames_are_neither_copied_nor_packed() -> None:
    pixels = bytearray(9)
    header, frame = from_app.encode(GetStatus(seq=1), [pixels])
    assert frame is pixels
    assert bytes(pixels) not in bytes(header)
    assert from_app.decode([header, frame])[1][0] is pixels


def test_an_integer_is_taken_where_a_number_is_due_and_nothing_else_is_retyped() -> None:
    body = {"code": "x", "message": "y", "retry_after": 1}
    assert msgspec.convert(body, ErrorBody).retry_after == 1.0
    for timings in ({"total": "1"}, {"total": True}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"timings": timings}, Output)
    assert JobSucceeded.__struct_config__.tag == "job_succeeded"
