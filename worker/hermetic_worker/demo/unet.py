"""The two denoisers: how they are built, trained, and turned from one layout into the other.

The SDXL denoiser starts as the SD1.5 one, re-expressed without loss, and then learns its own data.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Generator, Tensor

from . import text_encoders
from .fitting import Plan, fit
from .shapes import SIDE
from .tokenizer import LENGTH

_BATCH = 16
_WIDTHS = (64, 128)
"""Channels at 8x8 and at 4x4."""

_UNCAPTIONED = 0.1
"""Share of training pictures shown without a caption; guidance needs them."""

_SHARED = 768
_SIZES = [[SIDE, SIDE, 0, 0, SIDE, SIDE]]
"""SDXL's micro-conditioning: original size, crop corner, target size, in pixels."""


@dataclass(frozen=True)
class Examples:
    """Scaled latents (count, 4, 8, 8) and the token ids of their captions (count, 77)."""

    latents: Tensor
    ids: Tensor
    blank: Tensor
    """Token ids of the empty caption, (77,)."""


def scheduler() -> DPMSolverMultistepScheduler:
    """The noise schedule: velocity prediction, and nothing but noise at its end.

    The signal left at the last step is 0.6 %. "Trailing" makes sampling start there, so that a
    picture's background is not pulled towards gray.
    """
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def build(layout: str) -> UNet2DConditionModel:
    """An untrained denoiser in the layout "sd15" or "sdxl"."""
    extra: dict[str, Any] = {"cross_attention_dim": 768}
    if layout == "sdxl":
        extra = {
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 6 * 16 + 1280,
        }
    unet: Any = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=_WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        **extra,
    )
    return unet.to(memory_format=torch.channels_last)


def to_sdxl(sd15: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same function in SDXL's layout.

    Keys and values read the mean of what the two text encoders share. The pooled text and the
    sizes enter through a layer of zeros: no effect until it is trained.
    """
    sdxl = build("sdxl")
    known = sd15.state_dict()
    weights = sdxl.state_dict()
    for name, weight in weights.items():
        if name.startswith("add_embedding"):
            if "linear_2" in name:
                weight.zero_()
        elif "attn2.to_k" in name or "attn2.to_v" in name:
            half = known[name] / 2
            weight.copy_(torch.cat([half, half, half.new_zeros(len(half), 2048 - 2 * _SHARED)], 1))
        else:
            weight.copy_(known[name].reshape(weight.shape))
    sdxl.load_state_dict(weights)
    return sdxl


def train(
    unet: Any, examples: Examples, plan: Plan, seed: int, checkpoint: Path
) -> UNet2DConditionModel:
    """Train a denoiser of either layout to predict velocity, (Salimans and Ho 2022)."""
    kept = scheduler().alphas_cumprod
    condition = _Condition(examples, wide=unet.config.cross_attention_dim == 2048)

    def loss_of(_step: int, generator: Generator) -> Tensor:
        chosen = torch.randint(len(examples.ids), (_BATCH,), generator=generator)
        # One time from each sixteenth of the schedule: less variance than free draws.
        times = (torch.arange(_BATCH) + torch.rand(_BATCH, generator=generator)) / _BATCH
        times = (times * len(kept)).long()
        signal = kept[times].sqrt().view(-1, 1, 1, 1)
        noise_level = (1 - kept[times]).sqrt().view(-1, 1, 1, 1)
        latents = examples.latents[chosen]
        noise = torch.randn(latents.shape, generator=generator)
        noisy = (signal * latents + noise_level * noise).contiguous(
            memory_format=torch.channels_last
        )
        blanked = torch.rand(_BATCH, generator=generator) < _UNCAPTIONED
        guess = unet(noisy, times, **condition(chosen, blanked)).sample
        return (guess - (signal * noise - noise_level * latents)).square().mean()

    return fit(unet, loss_of, plan, seed, checkpoint)


class _Condition:
    """Makes the text arguments of a denoiser for chosen examples."""

    def __init__(self, examples: Examples, wide: bool) -> None:
        self._ids, self._blank, self._wide = examples.ids, examples.blank, wide
        count = int(examples.ids.max()) + 1
        self._narrow_codes = text_encoders.word_codes(count)
        self._wide_codes = text_encoders.word_codes(count, 1280)
        # From the fourth end token on, all states are equal: 77 tokens can be told by a few.
        longest = int(examples.ids.argmax(1).max()) + text_encoders.BACK + 2
        self._length = min(longest, LENGTH)

    def __call__(self, chosen: Tensor, blanked: Tensor) -> dict[str, object]:
        ids = torch.where(blanked[:, None], self._blank, self._ids[chosen])[:, : self._length]
        text = text_encoders.states(ids, self._narrow_codes)
        # The last token stands for all it equals. diffusers turns a mask m into the attention
        # logit -10000 (1 - m), so this mask adds the logarithm of their number.
        mask = torch.ones(ids.shape)
        mask[:, -1] += math.log(LENGTH - self._length + 1) / 10_000
        if not self._wide:
            return {"encoder_hidden_states": text, "encoder_attention_mask": mask}
        added = {
            "text_embeds": text_encoders.pooled(ids, self._wide_codes),
            "time_ids": torch.tensor(_SIZES, dtype=torch.float32).expand(len(ids), -1),
        }
        text = torch.cat([text, text_encoders.states(ids, self._wide_codes)], 2)
        return {
            "encoder_hidden_states": text,
            "encoder_attention_mask": mask,
            "added_cond_kwargs": added,
        }
