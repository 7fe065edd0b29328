"""The founding bug, word for word, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic_worker import leak

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS

SDXL_TO_SD15 = "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)"
SD15_TO_SDXL = (
    "If `prompt_embeds` are provided, `pooled_prompt_embeds` also have to be passed. Make sure to "
    "generate `pooled_prompt_embeds` from the same text encoder that was used to generate "
    "`prompt_embeds`."
)


def test_both_texts(
    sd15_folder: Path, sdxl_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leak.main([str(sd15_folder), str(sdxl_folder), "--json"]) == 0
    there, back = json.loads(capsys.readouterr().out)
    assert there == {
        "first": "sdxl",
        "second": "sd15",
        "error": SDXL_TO_SD15,
        "works_after_clear": True,
    }
    assert (back["first"], back["second"]) == ("sd15", "sdxl")
    assert back["error"] == SD15_TO_SDXL
    assert back["works_after_clear"]


def test_without_a_switch_the_cache_is_harmless(sd15_folder: Path) -> None:
    app = leak.InProcessApp()
    app.switch(sd15_folder)
    try:
        first, second = app.generate("a"), app.generate("a")
    finally:
        leak.PROMPT_CACHE.clear()
    assert first.tobytes() == second.tobytes()
