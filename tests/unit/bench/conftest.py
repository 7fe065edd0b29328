"""The benchmarks are programs, not a package: their folder is what Python is started in."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "bench"))
