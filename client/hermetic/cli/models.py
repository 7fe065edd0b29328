"""`models` and `show`: the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from .completion import complete_model
from .output import print_table, size, write_json
from .session import Session
from .verb import json_option, verb

if TYPE_CHECKING:
    from hermetic_wire.messages import ModelRow

__all__ = ["models", "show"]


@verb("hermetic models", "hermetic models --json")
@json_option
@click.pass_obj
def models(session: Session, as_json: bool) -> None:
    """List the models of the catalog.

    A model that cannot be used is listed with the reason.
    """
    with session.client() as client:
        rows = client.models()
    if as_json:
        write_json(rows)
        return
    print_table(
        ("MODEL", "ARCHITECTURE", "SIZE", "SOURCE", "PROBLEM"),
        [(r.name, r.architecture, size(r.size_bytes), r.source, r.problem or "-") for r in rows],
        right=("SIZE",),
    )


@verb("hermetic show demo-sd15", "hermetic show demo-sdxl --json")
@click.argument("model", shell_complete=complete_model)
@json_option
@click.pass_obj
def show(session: Session, model: str, as_json: bool) -> None:
    """Tell all that is known of one model.

    Its files, its parts, the dimensions that must agree, its defaults, and the parameters that
    `hermetic generate --set` takes for it.
    """
    with session.client() as client:
        row = client.model(model)
    if as_json:
        write_json(row)
        return
    for line in _page(row):
        click.echo(line)


def _page(row: ModelRow) -> list[str]:
    facts = {
        "model": row.name,
        "architecture": row.architecture,
        "pipeline": row.pipeline,
        "source": row.source,
        "path": row.path,
        "size": size(row.size_bytes),
        "problem": row.problem,
    }
    lines = [f"{name:<13} {value}" for name, value in facts.items() if value]
    tables: dict[str, Mapping[str, object]] = {
        "components": row.components,
        "widths that must agree": row.widths,
        "defaults": row.defaults,
        "further parameters (--set NAME=VALUE)": row.extra,
    }
    for heading, table in tables.items():
        if table:
            longest = max(map(len, table))
            lines += ["", f"{heading}:"]
            lines += [f"  {name:<{longest}}  {value}" for name, value in sorted(table.items())]
    return lines
