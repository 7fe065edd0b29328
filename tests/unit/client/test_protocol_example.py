"""The page's worked example is a program: it runs against the fake daemon."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from unit.client.fake_daemon import FakeDaemon

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_the_example_draws_an_image(daemon: FakeDaemon, tmp_path: Path) -> None:
    [example] = re.findall(r"<!-- example -->\n```python\n(.+?)```", PAGE.read_text(), re.DOTALL)
    subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "HERMETIC_ENDPOINT": str(daemon.path)},
        check=True,
        timeout=20,
    )
    assert (tmp_path / "image.ppm").read_bytes() == b"P6 2 1 255\n" + bytes([5, 0, 255] * 2)
