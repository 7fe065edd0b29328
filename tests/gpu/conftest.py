"""The one GPU that these tests share, and tiny models that are built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermetic_worker import libraries
from hermetic_worker.device import Device
from support import tiny_models


@pytest.fixture(scope="session", autouse=True)
def claimed() -> Device:
    """Claimed before any test opens CUDA, as a worker does: afterwards it would be too late."""
    libraries.bring_in()
    device = Device("cuda").claim()
    device.require()
    return device


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By architecture: random models in the real layout."""
    models = tmp_path_factory.mktemp("models")
    return {
        "sd15": tiny_models.sd15(models / "sd15"),
        "sdxl": tiny_models.sdxl(models / "sdxl"),
    }
