"""docs/cli.md documents every verb, every option and every exit code, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from hermetic.cli.program import VERBS, program
from hermetic_wire.errors import error_classes

PAGE = (Path(__file__).parents[4] / "docs" / "cli.md").read_text()
SHARED = {"--endpoint", "--help", "--version"}


def section(verb: str) -> str:
    """What is under the verb's heading."""
    found = re.search(rf"^### `hermetic {verb}`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section for {verb}"
    return found[1]


def options(verb: str) -> set[str]:
    """All spellings of the verb's options."""
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    found = (one.opts for one in command.params if isinstance(one, click.Option))
    return {spelling for spellings in found for spelling in spellings} - SHARED


@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_is_documented(verb: str) -> None:
    assert f"| [{verb}](#hermetic-{verb}) | {VERBS[verb].summary} |" in PAGE
    section(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_the_verbs_options_are_documented(verb: str) -> None:
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section(verb)))
    assert options(verb) <= told


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_documented_that_is_not_there(verb: str) -> None:
    rows = re.findall(r"^\| (`-.*?) \|", section(verb), re.MULTILINE)
    told = {one for row in rows for one in re.findall(r"`(--?[a-z-]+)", row)}
    assert told <= options(verb)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    lines = ["| exit code | error | meaning |", "|---|---|---|"]
    for code, kind in sorted(error_classes().items(), key=lambda row: (row[1].exit_code, row[0])):
        meaning = (kind.__doc__ or "").splitlines()[0]
        lines.append(f"| {kind.exit_code} | `{code}` | {meaning} |")
    table = "\n".join(lines)
    assert PAGE.endswith(f"\n\n{table}\n"), f"docs/cli.md should end with\n{table}"
