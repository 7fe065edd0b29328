"""The configuration's page: complete, and an example that loads."""

from __future__ import annotations

import re
from pathlib import Path

from hermetic_daemon import config

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
SECTIONS = (config.Config, config.DaemonSection, config.WorkerSection, config.ModelSection)


def test_every_setting_is_documented_and_the_example_loads(tmp_path: Path) -> None:
    page = PAGE.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "hermetic.toml"
    file.write_text(example)
    settings = config.load(file, {})
    assert set(settings.models) == {"sdxl-base", "slow-echo"}
    for section in SECTIONS:
        for field in section.__struct_fields__:
            assert re.search(rf"\b{field}\b", example), f"{field} is not documented"
