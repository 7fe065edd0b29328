"""Every command and every program that the documents show is run, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
SERVED_BY_CI = ("scripts/demo", "scripts/test", "scripts/check", "scripts/bench")


def blocks(document: Path, language: str) -> list[str]:
    found = BLOCK.findall(document.read_text())
    return [text for kind, text in found if kind == language]


def commands(document: Path) -> list[list[str]]:
    lines = "".join(blocks(document, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def environment(daemon: RunningDaemon) -> dict[str, str]:
    """What a user's shell would have: the project's commands, and a daemon that serves."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HERMETIC_ENDPOINT": str(daemon.endpoint)}


def test_the_readme_leads_with_the_two_commands() -> None:
    first = commands(PROJECT / "README.md")[:2]
    assert first == [["scripts/demo"], ["scripts/test"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_script_that_is_shown_exists_and_is_one_that_ci_runs(document: Path) -> None:
    for words in commands(document):
        if words[0].startswith("scripts/"):
            assert words[0] in SERVED_BY_CI
            assert os.access(PROJECT / words[0], os.X_OK)


def test_the_readmes_commands_run(environment: dict[str, str], tmp_path: Path) -> None:
    shown = [words for words in commands(PROJECT / "README.md") if words[0] == "hermetic"]
    assert ["hermetic", "serve"] in shown
    for words in shown:
        if words != ["hermetic", "serve"]:  # one serves already
            done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True)
            assert done.returncode == 0, f"{words}: {done.stderr.decode()}"
    assert (tmp_path / "circle.png").stat().st_size > 0


def test_the_command_lines_page_runs(environment: dict[str, str], tmp_path: Path) -> None:
    sessions = "".join(blocks(PROJECT / "docs" / "cli.md", "console"))
    lines = re.findall(r"^\$ (.*)$", sessions, re.MULTILINE)
    ours = [line for line in lines if not line.startswith(("pip install", "hermetic serve"))]
    assert ours
    for folder in (".zfunc", ".config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    for line in ours:
        done = subprocess.run(
            ["bash", "-c", line],
            env={**environment, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
        )
        assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
    assert list(tmp_path.glob("hermetic-*.png"))


def test_the_readmes_programs_run(environment: dict[str, str], tmp_path: Path) -> None:
    programs = blocks(PROJECT / "README.md", "python")
    assert len(programs) == 2
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "star.png").exists()


def test_the_protocols_example_draws_with_nothing_but_zmq_and_msgpack(
    environment: dict[str, str], tmp_path: Path
) -> None:
    page = (PROJECT / "docs" / "protocol.md").read_text()
    program = re.search(r"<!-- example -->\s*```python\n(.*?)```", page, re.DOTALL)
    assert program is not None
    assert "hermetic" not in re.findall(r"^(?:import|from) (\w+)", program[1], re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", program[1]], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_reading_verb_speaks_json(environment: dict[str, str]) -> None:
    for verb in ("ps", "models", "jobs", "status", "show echo"):
        words = ["hermetic", *verb.split(), "--json"]
        done = subprocess.run(words, env=environment, capture_output=True, check=True)
        json.loads(done.stdout)
