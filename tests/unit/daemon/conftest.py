"""Diffusers folders of JSON files and empty weights: all that the daemon ever reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a folder of a pipeline with these widths; `change` may alter any JSON before."""

    def make(
        name: str = "model",
        pipeline: str = "StableDiffusionPipeline",
        context: int = 768,
        text: tuple[int, ...] = (768,),
        change: Callable[[dict[str, Any]], None] = lambda files: None,
    ) -> Path:
        files: dict[str, Any] = {
            "model_index.json": {"_class_name": pipeline, "unet": ["diffusers", "UNet"]},
            "unet/config.json": {"cross_attention_dim": context, "sample_size": 8},
            "vae/config.json": {"block_out_channels": [1, 1, 1, 1]},
        }
        for number, width in enumerate(text):
            encoder = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
            files["model_index.json"][encoder] = ["transformers", "CLIPTextModel"]
            files[f"{encoder}/config.json"] = {"hidden_size": width}
        change(files)
        root = tmp_path / name
        for file, content in files.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            if path.name == "config.json":
                (path.parent / "model.safetensors").write_bytes(b"weights")
        return root

    return make
