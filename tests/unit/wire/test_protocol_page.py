"""docs/protocol.md against the messages that it describes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgpack
import msgspec
import pytest

from hermetic_wire import PROTOCOL, codec
from hermetic_wire.errors import ErrorBody, error_classes
from hermetic_wire.generation import Image, Output, Task, WorkerIdentity
from hermetic_wire.messages import (
    FromApp,
    FromDaemon,
    JobRow,
    ModelRow,
    StoreStatus,
    TemplateStatus,
    WorkerRow,
    from_app,
)

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
MESSAGES: tuple[type[msgspec.Struct], ...] = get_args(FromApp | FromDaemon)
PARTS = (
    ErrorBody,
    Image,
    JobRow,
    ModelRow,
    Output,
    StoreStatus,
    TemplateStatus,
    WorkerIdentity,
    WorkerRow,
)
DESCRIBED = [*MESSAGES, *get_args(Task), *PARTS]


def _title(kind: type[msgspec.Struct]) -> str:
    tag = kind.__struct_config__.tag
    return kind.__name__ if tag is None else f"`{tag}`"


def _sections() -> dict[str, str]:
    parts = re.split(r"^#{2,4} (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rows(section: str) -> dict[str, list[str]]:
    """The cells of a table's rows by what stands between backticks in the first one."""
    lines = [line.replace(r"\|", "") for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.findall("`(.+?)`", row[0])[0]: row for row in rows}


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    match value:
        case None:
            return "nil"
        case ():
            return "[]"
        case str():
            return f'`"{value}"`'
        case _:
            return str(value)


@pytest.mark.parametrize("kind", DESCRIBED, ids=lambda kind: kind.__name__)
def test_every_field_is_described_with_its_default(kind: type[msgspec.Struct]) -> None:
    described = _rows(_sections()[_title(kind)])
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name != "v"}

    assert list(described) == list(fields)
    for name, (_, type_, default, meaning) in described.items():
        assert default == _default(fields[name]), name
        assert type_
        assert meaning


def test_every_error_is_described_with_its_exit_code() -> None:
    described = _rows(_sections()["Errors"])
    assert {code: (row[1], row[2]) for code, row in described.items()} == {
        code: (f"`{kind.__name__}`", str(kind.exit_code)) for code, kind in error_classes().items()
    }


def test_the_limits_are_those_of_the_codec() -> None:
    limits = _sections()["Limits"]
    for limit in (
        codec.MAX_HEADER_BYTES,
        codec.MAX_STRING_BYTES,
        codec.MAX_ITEMS,
        codec.MAX_DEPTH,
        codec.MAX_FRAMES,
        codec.MAX_RAW_BYTES,
    ):
        assert f"| {limit:,} " in limits or f"| {limit:,}," in limits


def test_the_version_is_that_of_the_protocol() -> None:
    assert f"The protocol's version is **{PROTOCOL}**" in " ".join(PAGE.split())


def test_the_sample_header_is_a_hello() -> None:
    [sample] = re.findall(r"<!-- sample: hello -->\n```\n(.+?)\n```", PAGE, flags=re.DOTALL)
    header = bytes.fromhex(sample)
    assert f"has {len(header)} bytes" in PAGE
    assert msgpack.packb(msgpack.unpackb(header)) == header
    hello, _ = from_app.decode([header])
    assert (_title(type(hello)), hello.seq) == ("`hello`", 1)


def test_every_link_leads_somewhere() -> None:
    anchors = {re.sub("[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in _sections()}
    assert set(re.findall(r"\]\(#(.+?)\)", PAGE)) <= anchors
