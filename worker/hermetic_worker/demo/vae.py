"""The autoencoder both models share: 64x64 pictures to 4x8x8 latents and back.

Trained in two stages: encoder and decoder together, then the decoder alone, for longer.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor

from .dataset import Dataset
from .fitting import Plan, fit

_CROP = 32
_CROPPED = 0.65
"""Share of the steps that see quarter pictures: four times as fast, and enough to learn colours."""

_BLURRED = 0.3
"""Share of the steps before edges count. Counted from the start, they teach it to draw none."""

_NOISE = 0.05
_DECODER_NOISE = 0.1
"""Noise on the latents while training, so that the inexact ones of a denoiser decode cleanly."""


def build() -> AutoencoderTiny:
    """An untrained autoencoder. It shrinks by 8, as the pipelines derive from its four levels."""
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(24,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(2, 1, 1, 1),
        latent_channels=4,
    )
    return vae.to(memory_format=torch.channels_last)


def train_both(data: Dataset, plan: Plan, seed: int, checkpoint: Path) -> AutoencoderTiny:
    """Train encoder and decoder together, on parts of pictures first."""
    vae = build()

    def loss_of(step: int, generator: Generator) -> Tensor:
        if step < _CROPPED * plan.steps:
            pictures = _cropped(_pictures(data, 32, generator), generator)
        else:
            pictures = _pictures(data, 16, generator)
        latents = vae.encoder(pictures)
        drawn = vae.decoder(_disturbed(latents, _NOISE, generator))
        edges = 0.0 if step < _BLURRED * plan.steps else 0.5
        return _distance(drawn, pictures, edges) + 1e-3 * latents.square().mean()

    return fit(vae, loss_of, plan, seed, checkpoint)


def train_decoder(
    vae: Any, data: Dataset, plan: Plan, seed: int, checkpoint: Path
) -> AutoencoderTiny:
    """Train the decoder on; the encoder stays as it is, and so do all latents."""
    vae.to(memory_format=torch.channels_last).encoder.requires_grad_(False)

    def loss_of(_step: int, generator: Generator) -> Tensor:
        pictures = _pictures(data, 16, generator)
        with torch.no_grad():
            latents = _disturbed(vae.encoder(pictures), _DECODER_NOISE, generator)
        return _distance(vae.decoder(latents), pictures, edges=0.5)

    return fit(vae, loss_of, plan, seed, checkpoint)


def encode(vae: AutoencoderTiny, data: Dataset) -> Tensor:
    """The latents of a whole dataset, unscaled: float32, (count, 4, 8, 8)."""
    chunks = torch.arange(len(data.captions)).split(100)
    with torch.no_grad():
        return torch.cat([vae.encoder(data.pictures(chunk)) for chunk in chunks])


def sharpness(vae: AutoencoderTiny, data: Dataset) -> float:
    """How well pictures survive encoding and decoding: peak signal to noise ratio, dB."""
    pictures = data.pictures(torch.arange(len(data.captions)))
    with torch.no_grad():
        error = (vae.decoder(vae.encoder(pictures)).clamp(-1, 1) - pictures) / 2
    return float(-10 * error.square().mean().log10())


def _pictures(data: Dataset, count: int, generator: Generator) -> Tensor:
    chosen = torch.randint(len(data.captions), (count,), generator=generator)
    return data.pictures(chosen).contiguous(memory_format=torch.channels_last)


def _cropped(pictures: Tensor, generator: Generator) -> Tensor:
    room = pictures.shape[-1] - _CROP + 1
    top, left = torch.randint(room, (2,), generator=generator).tolist()
    return pictures[..., top : top + _CROP, left : left + _CROP]


def _disturbed(latents: Tensor, noise: float, generator: Generator) -> Tensor:
    return latents + noise * torch.randn(latents.shape, generator=generator)


def _distance(drawn: Tensor, wanted: Tensor, edges: float) -> Tensor:
    """Difference of colours, and of slopes with weight ``edges``: what keeps edges sharp."""
    error = drawn - wanted
    loss = error.square().mean() + 0.5 * error.abs().mean()
    if edges:
        slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = loss + edges * slopes
    return loss
