"""Small random-weight pipelines in diffusers' real layout, made offline in a second or two.

They draw noise, but every width that matters is true: contexts of 768 and 768 + 1280, and a
first UNet block of 320 channels for SD1.5, so that the founding mistake raises its exact text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["FIRST_BLOCK", "SD15_CONTEXT", "SDXL_CONTEXT", "byte_alphabet", "sd15", "sdxl"]

FIRST_BLOCK = 320
SD15_CONTEXT = 768
SDXL_CONTEXT = 768 + 1280
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd15(folder: Path, *, seed: int = 0, context: int = SD15_CONTEXT) -> Path:
    """A StableDiffusionPipeline of 64 px images in `folder`, which is returned.

    `context` is the UNet's alone: another than the text encoder's 768 makes a broken model.
    """
    torch, diffusers = _libraries()
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(FIRST_BLOCK, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    tokenizer = _tokenizer("<|endoftext|>")
    pipe = diffusers.StableDiffusionPipeline(
        vae=_vae(diffusers),
        text_encoder=_text_encoder(tokenizer, SD15_CONTEXT),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.PNDMScheduler(
            **_NOISE, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def sdxl(folder: Path, *, seed: int = 1) -> Path:
    """A StableDiffusionXLPipeline of 64 px images in `folder`, which is returned."""
    torch, diffusers = _libraries()
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=SDXL_CONTEXT,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 1280,
        norm_num_groups=8,
    )
    tokenizer, tokenizer_2 = _tokenizer("<|endoftext|>"), _tokenizer("!")
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=_vae(diffusers),
        text_encoder=_text_encoder(tokenizer, 768),
        text_encoder_2=_text_encoder(tokenizer_2, 1280, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(
            **_NOISE, steps_offset=1, timestep_spacing="leading"
        ),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of bytes in CLIP's (that is GPT-2's) tokenizer, in its order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def _libraries() -> tuple[Any, Any]:
    from hermetic_worker import libraries

    libraries.bring_in()
    import diffusers
    import torch

    return torch, diffusers


def _tokenizer(padding: str) -> Any:
    """CLIP's tokenizer with 514 entries: each byte, each byte at a word's end, start and end."""
    from transformers import CLIPTokenizer

    letters = byte_alphabet()
    entries = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)},
        merges=[],
        model_max_length=77,
        pad_token=padding,
    )


def _text_encoder(tokenizer: Any, width: int, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="gelu" if projected else "quick_gelu",
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _vae(diffusers: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=64,
    ).eval()
