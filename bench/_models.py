"""Models of real dimensions with random weights, in diffusers' layout: for sizes, not for images.

Every shape is that of the published SD1.5 and SDXL base. The weights are stored in fp16 as they
are in the wild; a norm's are 1 and every bias is 0, so that a step yields numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from _arms import BenchError
from hermetic_worker import libraries
from support import tiny_models

__all__ = ["BYTES", "DTYPES", "cache_directory", "made", "sd15", "sdxl"]

BYTES = {"sd15": 2_150_000_000, "sdxl": 7_000_000_000}
"""What the real ones take of a disk, a little more than they need."""
DTYPES = {"real": "float16", "tiny": "float32"}
"""As the files hold them, so that nothing is converted."""

BLOCK = 1 << 24
"""Random numbers that are drawn once; a weight is a cut of them."""


def cache_directory() -> Path:
    """Where generated models are kept between two benchmarks: about 9 GB."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hermetic" / "bench"


def sd15(folder: Path) -> Path:
    """The shapes of Stable Diffusion 1.5 (2.0 GB) in `folder`, which is returned."""
    libraries.bring_in()
    import diffusers

    return _make(
        folder,
        "StableDiffusionPipeline",
        {
            "vae": _vae(0.18215, 512),
            "text_encoder": _text_encoder("CLIPTextModel", 768, 12, 12, "quick_gelu"),
            "unet": (
                diffusers.UNet2DConditionModel,
                {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
            ),
        },
        diffusers.PNDMScheduler(**_NOISE, skip_prk_steps=True, set_alpha_to_one=False),
        {"safety_checker": [None, None], "feature_extractor": [None, None]},
    )


def sdxl(folder: Path) -> Path:
    """The shapes of Stable Diffusion XL base (6.9 GB) in `folder`, which is returned."""
    libraries.bring_in()
    import diffusers

    unet = {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    return _make(
        folder,
        "StableDiffusionXLPipeline",
        {
            "vae": _vae(0.13025, 1024),
            "text_encoder": _text_encoder("CLIPTextModel", 768, 12, 12, "quick_gelu"),
            "text_encoder_2": _text_encoder("CLIPTextModelWithProjection", 1280, 32, 20, "gelu"),
            "unet": (diffusers.UNet2DConditionModel, unet),
        },
        diffusers.EulerDiscreteScheduler(**_NOISE, timestep_spacing="leading"),
        {"force_zeros_for_empty_prompt": True},
    )


def made(size: str, folder: Path) -> dict[str, str]:
    """Both models in `folder` and where each is, made where they are not there already.

    In a process of its own, which takes its libraries with it when it ends. Raises BenchError where
    the disk has not the room, or the process failed.
    """
    if size == "real":
        _require_room(folder)
    done = subprocess.run([sys.executable, __file__, size, str(folder)], check=False)
    if done.returncode != 0:
        raise BenchError(f"the {size} models could not be made in {folder}; see above")
    return {name: str(folder / name) for name in BYTES}


def _require_room(folder: Path) -> None:
    missing = {name for name in BYTES if not (folder / name / "model_index.json").exists()}
    needed = sum(BYTES[name] for name in missing)
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise BenchError(
            f"--size real needs {needed / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are "
            "free; set XDG_CACHE_HOME to a larger disk, or take --size tiny"
        )


_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def _vae(scaling: float, side: int) -> tuple[Any, dict[str, Any]]:
    import diffusers

    return diffusers.AutoencoderKL, {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": side,
        "scaling_factor": scaling,
    }


def _text_encoder(
    kind: str, width: int, layers: int, heads: int, activation: str
) -> tuple[Any, dict[str, Any]]:
    import transformers

    return getattr(transformers, kind), {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": activation,
        "bos_token_id": 512,
        "eos_token_id": 513,
        "pad_token_id": 513,
    }


def _make(
    folder: Path,
    pipeline: str,
    modules: dict[str, tuple[Any, dict[str, Any]]],
    scheduler: Any,
    extra: dict[str, Any],
) -> Path:
    """Nothing is done where the folder is complete: `model_index.json` is written last."""
    index = folder / "model_index.json"
    if index.exists():
        return folder
    entries: dict[str, Any] = {"_class_name": pipeline, **extra}
    for name, (kind, settings) in modules.items():
        _write_module(folder / name, kind, settings)
        entries[name] = [kind.__module__.partition(".")[0], kind.__name__]
        if name.startswith("text_encoder"):
            tokenizer = name.replace("text_encoder", "tokenizer")
            _tokenizer().save_pretrained(folder / tokenizer)
            entries[tokenizer] = ["transformers", "CLIPTokenizer"]
    scheduler.save_pretrained(folder / "scheduler")
    entries["scheduler"] = ["diffusers", type(scheduler).__name__]
    index.write_text(json.dumps(entries, indent=2))
    return folder


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = tiny_models.byte_alphabet()
    entries = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return CLIPTokenizer(
        vocab=vocabulary, merges=[], model_max_length=77, pad_token="<|endoftext|>"
    )


def _write_module(folder: Path, kind: Any, settings: dict[str, Any]) -> None:
    """Its configuration and its weights, without ever holding the weights in memory."""
    import torch

    with torch.device("meta"):
        if hasattr(kind, "from_config"):
            module = kind(**settings)
            module.save_config(folder)
            name = "diffusion_pytorch_model.safetensors"
        else:
            config = kind.config_class(**settings)
            config.architectures = [kind.__name__]
            module = kind(config)
            config.save_pretrained(folder)
            name = "model.safetensors"
    norms = {
        f"{owner}.weight"
        for owner, part in module.named_modules()
        if isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm))
    }
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    temporary = folder / f"{name}.part"
    with temporary.open("wb") as stream:
        for piece in _safetensors(shapes, norms):
            stream.write(piece)
    temporary.rename(folder / name)


def _safetensors(shapes: dict[str, tuple[int, ...]], norms: set[str]) -> Iterator[bytes]:
    """The file, piece by piece: eight bytes of length, a JSON header, the tensors in its order."""
    header, offset = {}, 0
    for key, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    numbers = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * 0.02
    noise = numbers.astype(np.float16)
    for key, shape in shapes.items():
        count = int(np.prod(shape))
        if key in norms:
            yield np.ones(count, np.float16).tobytes()
        elif key.endswith("bias"):
            yield np.zeros(count, np.float16).tobytes()
        else:
            for start in range(0, count, BLOCK):
                yield noise[: min(BLOCK, count - start)].tobytes()


if __name__ == "__main__":
    kinds = {"real": (sd15, sdxl), "tiny": (tiny_models.sd15, tiny_models.sdxl)}
    for make in kinds[sys.argv[1]]:
        make(Path(sys.argv[2]) / make.__name__)
