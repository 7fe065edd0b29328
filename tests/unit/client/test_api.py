"""The public names, and the two twins that must not drift apart."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import hermetic
from hermetic_wire import errors


def _public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("blocking", "awaiting"),
    [(hermetic.Client, hermetic.AsyncClient), (hermetic.Job, hermetic.AsyncJob)],
)
def test_the_twins_have_the_same_methods_and_arguments(blocking: type, awaiting: type) -> None:
    ours, theirs = _public(blocking), _public(awaiting)
    assert set(ours) - {"endpoint"} == set(theirs)
    for name, member in ours.items():
        assert inspect.getdoc(member)
        if inspect.isfunction(member):
            there = getattr(awaiting, name)
            assert inspect.signature(member).parameters == inspect.signature(there).parameters


def test_the_twins_are_made_with_the_same_arguments() -> None:
    ours, theirs = inspect.signature(hermetic.Client), inspect.signature(hermetic.AsyncClient)
    assert ours.parameters == theirs.parameters


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) - {"error_classes", "from_body", "to_body"} <= set(hermetic.__all__)


def test_the_names_are_sorted_and_there() -> None:
    assert hermetic.__all__ == sorted(hermetic.__all__)
    assert all(hasattr(hermetic, name) for name in hermetic.__all__)
    assert hermetic.__version__


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'diffusers', 'click', 'rich'} & set(sys.modules)"
    code = f"import hermetic, hermetic.png, sys; print({heavy} or '')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
