"""The command line: `hermetic VERB`. One file per group of verbs; `program` lists them all.

Only `main` is here, so that a base install without the `cli` extra ends in words.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"click", "rich", "PIL"}


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        from .program import program

        program.main(prog_name="hermetic")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"hermetic: error: the command line needs {error.name}, which is not installed. "
            "Install it with: pip install 'hermetic[cli]'\n"
        )
        sys.exit(69)  # EX_UNAVAILABLE
