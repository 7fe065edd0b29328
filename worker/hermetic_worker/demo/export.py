"""Assembles trained parts into the model folders that diffusers loads. Never trains."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from . import text_encoders, tokenizer, unet

DEFAULTS = {"steps": 10, "guidance": 1.5, "width": 64, "height": 64}
"""What a job gets that does not say: denoising steps, guidance scale, pixels."""


def assemble(layout: str, work: Path) -> DiffusionPipeline:
    """The pipeline of one layout, float32, from the parts in the work folder."""
    words = tokenizer.build()
    decoder = work / "decoder"
    parts: dict[str, Any] = {
        "vae": AutoencoderTiny.from_pretrained(decoder if decoder.exists() else work / "vae"),
        "unet": UNet2DConditionModel.from_pretrained(work / f"unet-{layout}"),
        "scheduler": unet.scheduler(),
        "tokenizer": words,
        "text_encoder": text_encoders.build(words, 768),
    }
    if layout == "sd15":
        parts |= {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)
    parts |= {"tokenizer_2": words, "text_encoder_2": text_encoders.build(words, 1280)}
    # The denoiser learnt the empty caption, not zeros.
    return StableDiffusionXLPipeline(
        **parts, force_zeros_for_empty_prompt=False, add_watermarker=False
    )


def write(layout: str, work: Path, folder: Path) -> None:
    """Write one model folder: half precision weights, and the manifest with its defaults."""
    pipeline = assemble(layout, work).to(dtype=torch.float16)
    pipeline.save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        _forget_origin(config)
    manifest = json.dumps({"defaults": DEFAULTS}, indent=2)
    (folder / "hermetic.json").write_text(manifest + "\n", encoding="utf-8")


def _forget_origin(config: Path) -> None:
    """Drop the work folder's path, which diffusers notes in the config of a part it loaded."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
