"""What a diffusers folder says of itself, read from its JSON files alone. Never reads weights.

Finds, before any worker is touched, the folders that diffusers would load silently wrong: missing
components, text encoders whose widths do not add up to what the UNet attends to, pickled weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermetic_wire.errors import ModelInvalid
from hermetic_wire.generation import Parameter

from .architectures import ARCHITECTURES, Architecture, of_folder

__all__ = ["Folder", "read"]

MAX_JSON_BYTES = 4 << 20
_NUMBERS = ("steps", "guidance", "width", "height")


@dataclass(frozen=True)
class Folder:
    """A folder that holds a model of a known architecture and is consistent."""

    path: Path
    architecture: Architecture
    components: dict[str, str]
    widths: dict[str, int]
    size_bytes: int
    defaults: dict[str, Parameter]


def read(path: Path) -> Folder:
    """Describe the folder. Raises ModelInvalid, which says what was found and what to do."""
    index = _json(path / "model_index.json")
    pipeline = index.get("_class_name")
    components = _components(index)
    unet = _json(path / "unet" / "config.json")
    context = unet.get("cross_attention_dim")
    architecture = of_folder(str(pipeline), context if isinstance(context, int) else -1)
    if architecture is None:
        known = ", ".join(
            f"{each.pipeline} with context width {each.context_width} ({each.name})"
            for each in ARCHITECTURES.values()
            if each.pipeline
        )
        raise ModelInvalid(
            f"{path} declares {pipeline} with context width {context}, which no supported "
            f"architecture has. Supported: {known}."
        )
    widths = {"unet.cross_attention_dim": architecture.context_width}
    widths |= _text_widths(path, architecture, components)
    for name in ("unet", "vae", *architecture.text_encoders):
        _require_safetensors(path / name)
    return Folder(
        path,
        architecture,
        components,
        widths,
        sum(file.stat().st_size for file in path.rglob("*.safetensors")),
        _defaults(path, unet),
    )


def _components(index: dict[str, Any]) -> dict[str, str]:
    return {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
    }


def _text_widths(
    path: Path, architecture: Architecture, components: dict[str, str]
) -> dict[str, int]:
    widths: dict[str, int] = {}
    for name in architecture.text_encoders:
        if name not in components:
            raise ModelInvalid(
                f"{path} has no {name}, which {architecture.pipeline} needs. Get the whole folder."
            )
        hidden = _json(path / name / "config.json").get("hidden_size")
        widths[f"{name}.hidden_size"] = hidden if isinstance(hidden, int) else 0
    if sum(widths.values()) != architecture.context_width:
        found = " + ".join(f"{name} {width}" for name, width in widths.items())
        raise ModelInvalid(
            f"{path} mixes components of different models: the UNet attends to a context "
            f"{architecture.context_width} wide, the text encoders give {found}."
        )
    return widths


def _defaults(path: Path, unet: dict[str, Any]) -> dict[str, Parameter]:
    """From the manifest `hermetic.json`; without one, the size that the UNet was trained at."""
    sample = unet.get("sample_size")
    levels = len(_json(path / "vae" / "config.json").get("block_out_channels", [0] * 4)) - 1
    side = sample * 2**levels if isinstance(sample, int) else None
    defaults: dict[str, Parameter] = {"width": side, "height": side} if side else {}
    manifest = path / "hermetic.json"
    if manifest.exists():
        given = _json(manifest).get("defaults", {})
        defaults |= {name: given[name] for name in _NUMBERS if name in given}
    return defaults


def _require_safetensors(component: Path) -> None:
    if any(component.glob("*.safetensors")):
        return
    pickled = ", ".join(sorted(file.name for file in component.glob("*.bin")))
    raise ModelInvalid(
        f"{component} has no *.safetensors"
        + (f", only {pickled}. Pickled weights can run code; convert them." if pickled else ".")
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelInvalid(
            f"{file} cannot be read: {error.strerror}. A diffusers folder has one; is "
            f"{file.parent} the right path?"
        ) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{file} is no JSON: {error}.") from error
    if not isinstance(value, dict) or len(text) > MAX_JSON_BYTES:
        raise ModelInvalid(f"{file} is no JSON object of at most {MAX_JSON_BYTES:,} bytes.")
    return value
