"""How answers look: JSON for programs, aligned tables for people, one way to say each unit."""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["age", "console", "duration", "print_table", "size", "to_json", "write_json"]

_WIRE_ONLY = ("v", "seq", "type")
_UNBOUNDED = 1000
"""Columns of a line that goes into a pipe or a file: nothing is cut off there."""


def to_json(value: Any) -> Any:
    """The value as JSON knows it, structs of the wire included, without the wire's own fields."""
    plain = msgspec.to_builtins(value)
    if isinstance(value, msgspec.Struct) and isinstance(plain, dict):
        return {key: plain[key] for key in plain if key not in _WIRE_ONLY}
    return plain


def write_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(to_json(value), indent=2))


def console(*, stderr: bool = False) -> Console:
    """Where tables and progress go; plain and unbounded off a terminal."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else _UNBOUNDED)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Container[str] = (),
    indent: int = 0,
    stderr: bool = False,
) -> None:
    """Print rows under their headings, the columns named in `right` aligned to the right."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console(stderr=stderr).print(Padding(table, (0, 0, 0, indent), expand=False))


def size(count: int | None) -> str:
    """Bytes for people: `1.5 GiB`, `512 MiB`; a dash for none."""
    if not count:
        return "-"
    for unit, bytes_each in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float | None) -> str:
    """Seconds for people: `85 ms`, `1.52 s`, `3 min 05 s`; a dash for none."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    return age(seconds)


def age(seconds: float) -> str:
    """A long time for people, to its two largest units: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = int(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"
