"""What the daemon knows of each architecture: which folder is one, and what a request may ask.

A new architecture begins here and in the worker's `pipelines`; an unknown one is refused, never
guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hermetic_wire.generation import GUIDED_EXTRAS, Parameter

__all__ = ["ARCHITECTURES", "Architecture", "of_folder"]


@dataclass(frozen=True)
class Architecture:
    """One family of models."""

    name: str
    pipeline: str | None
    """The diffusers class that its folders declare."""
    context_width: int
    """The UNet's `cross_attention_dim`; the text encoders' widths sum up to it."""
    text_encoders: tuple[str, ...]
    defaults: dict[str, Parameter]
    extra: Mapping[str, type[Parameter]] = field(default_factory=dict)
    size_multiple: int = 8
    """Pixels; the VAE's scale factor."""


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture(
            "sd15",
            "StableDiffusionPipeline",
            768,
            ("text_encoder",),
            {"steps": 30, "guidance": 7.5, "width": 512, "height": 512},
            GUIDED_EXTRAS,
        ),
        Architecture(
            "sdxl",
            "StableDiffusionXLPipeline",
            2048,
            ("text_encoder", "text_encoder_2"),
            {"steps": 30, "guidance": 5.0, "width": 1024, "height": 1024},
            GUIDED_EXTRAS,
        ),
        Architecture(
            "echo",
            None,
            0,
            (),
            {"steps": 4, "guidance": 1.0, "width": 64, "height": 64},
            {"step_seconds": float, "fail_at_step": int},
            size_multiple=1,
        ),
    )
}


def of_folder(pipeline: str, context_width: int) -> Architecture | None:
    """The architecture of a folder that declares this class and this `cross_attention_dim`."""
    for each in ARCHITECTURES.values():
        if (each.pipeline, each.context_width) == (pipeline, context_width):
            return each
    return None
