"""Which pipeline serves which architecture; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from hermetic_wire.errors import ModelInvalid

from .base import Pipeline

__all__ = ["PIPELINES", "Factory", "pipeline_for"]

Factory: TypeAlias = Callable[[], Pipeline]


def _echo() -> Pipeline:
    from .echo import Echo

    return Echo()


def _sd15() -> Pipeline:
    from .stable_diffusion import StableDiffusion

    return StableDiffusion()


def _sdxl() -> Pipeline:
    from .stable_diffusion import StableDiffusionXL

    return StableDiffusionXL()


PIPELINES: Mapping[str, Factory] = MappingProxyType({"echo": _echo, "sd15": _sd15, "sdxl": _sdxl})


def pipeline_for(architecture: str, pipelines: Mapping[str, Factory] = PIPELINES) -> Pipeline:
    """A new pipeline, not yet loaded. Raises ModelInvalid for an architecture nobody serves."""
    factory = pipelines.get(architecture)
    if factory is None:
        raise ModelInvalid(
            f"The architecture {architecture!r} was asked for; this worker serves "
            f"{', '.join(sorted(pipelines))}. Correct the model's architecture in the catalog."
        )
    return factory()
