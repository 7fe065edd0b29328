"""`python -m hermetic.cli` is `hermetic`."""

from __future__ import annotations

from hermetic.cli import main

main()
