"""How answers look: JSON for programs, aligned tables for people, one way to say each unit."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from typing import Any

import click
import msgspec

__all__ = ["age", "duration", "print_table", "size", "to_json", "write_json"]

_WIRE_ONLY = ("v", "seq", "type")


def to_json(value: Any) -> Any:
    """The value as JSON knows it, structs of the wire included, without the wire's own fields."""
    plain = msgspec.to_builtins(value)
    if isinstance(value, msgspec.Struct) and isinstance(plain, dict):
        return {key: plain[key] for key in plain if key not in _WIRE_ONLY}
    return plain


def write_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(to_json(value), indent=2))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Container[str] = (),
    indent: int = 0,
    stderr: bool = False,
) -> None:
    """Print rows under their headings, the columns named in `right` aligned to the right.

    Nothing is cut off: what is too wide for a terminal is for the terminal to wrap.
    """
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        click.secho(
            (" " * indent + "  ".join(cells)).rstrip(), bold=number == 0 or None, err=stderr
        )


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
