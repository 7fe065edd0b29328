"""The command as a whole: its verbs, its help, its completion, its manners without extras."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import click
import pytest
from click.shell_completion import ShellComplete

from hermetic import cli
from hermetic.cli.program import VERBS, program
from hermetic.cli.session import Session
from hermetic.cli.verb import Verb
from hermetic_wire.errors import DaemonUnreachable
from hermetic_wire.messages import JobRow
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import JOB_ID, FakeClient


def command(name: str) -> Verb:
    found = program.get_command(click.Context(program), name)
    assert isinstance(found, Verb)
    return found


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_has_help_with_examples(name: str, run: Run) -> None:
    found = command(name)
    assert found.name == name
    assert found.help is not None
    assert found.help.splitlines()[0] == VERBS[name].summary, "the list of verbs says the same"
    page = run(name, "--help").stdout
    assert "Examples:" in page
    for example in found.examples:
        assert f"hermetic {name}" in example or f" {name} " in example
        assert example in page


@pytest.mark.parametrize("name", VERBS)
def test_each_option_is_explained(name: str) -> None:
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_every_verb_is_listed(run: Run) -> None:
    page = run("--help").stdout
    for name, entry in VERBS.items():
        assert f"  {name} " in page
        assert entry.summary in page


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"hermetic, version {metadata.version('hermetic')}\n"


def test_an_unknown_verb_is_a_usage_error(run: Run) -> None:
    assert run("nonsense").exit_code == 2


def test_the_list_of_verbs_costs_no_heavy_import() -> None:
    heavy = {"torch", "numpy", "PIL", "rich", "hermetic_daemon", "hermetic_worker"}
    program = (
        "import sys; from hermetic.cli.program import program\n"
        "program.main(['--help'], standalone_mode=False)\n"
        f"sys.exit(','.join({heavy!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_cli_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hermetic.cli.program", None)
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "hermetic.cli.program")
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 69
    assert "pip install 'hermetic[cli]'" in capsys.readouterr().err


def completions(client: FakeClient, *words: str) -> list[str]:
    session = Session(open_client=lambda endpoint, timeout: client)  # type: ignore[arg-type, return-value]
    complete = ShellComplete(program, {"obj": session}, "hermetic", "_HERMETIC_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_verbs_complete(client: FakeClient) -> None:
    assert completions(client, "st") == ["status", "stop"]


def test_models_complete_from_the_daemon(client: FakeClient) -> None:
    assert completions(client, "load", "demo") == ["demo-sd15"]
    assert completions(client, "generate", "a ring", "-m", "") == ["demo-sd15"]
    assert completions(client, "show", "x") == []


def test_jobs_complete_from_the_daemon(client: FakeClient) -> None:
    client.job_rows = [
        JobRow(id=JOB_ID, app="", uid=0, pid=1, model="m", state="running", position=None)
    ]
    assert completions(client, "cancel", "3f") == [JOB_ID]


def test_an_unreachable_daemon_completes_nothing_and_says_nothing(
    client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.error = DaemonUnreachable("Nobody answers.")
    assert completions(client, "load", "") == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, run: Run) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_HERMETIC_COMPLETE" in done.stdout
