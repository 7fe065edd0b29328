"""The bug in one process, reproduced by `python -m hermetic_worker.leak` and read here."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from hermetic_wire.errors import HermeticError

__all__ = ["Direction", "reproduce"]

_BUDGET_S = 300.0
"""For two imports of PyTorch on a slow disk, and four loads."""
_TAIL = 20
"""Lines of its stderr that are shown when it failed."""


class Direction(msgspec.Struct, frozen=True, kw_only=True):
    """What one switch in one process did to one prompt."""

    first: str
    second: str
    error: str | None
    """What the second model raised, word for word; None where it drew an image."""
    works_after_clear: bool
    """Whether the same prompt drew an image once the cache was cleared."""

    @property
    def leaked(self) -> bool:
        """Whether the first model's embeddings, and nothing else, broke the second."""
        return self.error is not None and self.works_after_clear


def reproduce(sd15: str, sdxl: str) -> list[Direction]:
    """Both directions, from the folders of two models. Raises HermeticError with its stderr."""
    words = [sys.executable, "-m", "hermetic_worker.leak", sd15, sdxl, "--json"]
    try:
        # Its exit code says whether the bug showed; so does its report, in more words.
        done = subprocess.run(words, capture_output=True, text=True, timeout=_BUDGET_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise HermeticError(f"The in-process app did not end within {_BUDGET_S:.0f} s.") from error
    try:
        return msgspec.json.decode(done.stdout, type=list[Direction])
    except msgspec.DecodeError as error:
        raise HermeticError(
            f"The in-process app ended with code {done.returncode} and without a report.",
            report="\n".join(done.stderr.splitlines()[-_TAIL:]),
        ) from error
