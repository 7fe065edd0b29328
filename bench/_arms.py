"""What takes part in a comparison of switches: a process, or a daemon, that holds one model."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Arm", "BenchError", "Setting", "Visit", "progress"]


class BenchError(Exception):
    """The comparison cannot be made, or would not be of what it says; why, in words."""


@dataclass(frozen=True)
class Setting:
    """What all arms have in common."""

    folders: dict[str, str]
    """By the model's name, a folder in diffusers' layout."""
    dtype: str
    device: str
    read_ahead: bool
    """Whether a model is ready only when every page of its weights is in memory."""

    @property
    def models(self) -> list[str]:
        """Their names, in the order in which they are first visited."""
        return list(self.folders)

    def folder(self, model: str) -> Path:
        """Of one model."""
        return Path(self.folders[model])

    def to_json(self) -> str:
        """For a participant's command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Visit:
    """A model that became ready in an arm."""

    seconds: float
    """From the request, with the former model still held, to a model that could begin a step."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage; they need not add up, and a stage may run beside another."""


class Arm(Protocol):
    """One participant. It is begun together with the others, and waited for afterwards."""

    def await_start(self) -> None:
        """Until it could visit a model. Raises BenchError where it never will."""
        ...

    def visit(self, model: str) -> Visit:
        """Go from whatever it holds to this model."""
        ...

    def settle(self) -> None:
        """Until nothing of the last visit is under way any more, and the next may begin."""
        ...

    def leave(self) -> None:
        """Hold no model."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def progress(words: str) -> None:
    """For whoever waits; the report alone goes to standard output."""
    print(words, file=sys.stderr, flush=True)
