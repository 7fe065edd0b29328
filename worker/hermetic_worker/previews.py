"""Small pictures of an unfinished image: latents to colours, without the VAE.

A latent's cell becomes a pixel by a linear map, which is fitted once per worker to what its own
VAE makes of random patches. So there is one for every model, and none is looked up in a table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hermetic_wire.generation import Image

__all__ = ["Preview", "Previews"]

CELLS = 16
"""Cells along each side of what the map is fitted to."""
PATCH = 2
"""Cells along each side of a patch: neighbours are mostly alike in pictures, too."""


class Preview(NamedTuple):
    """One picture: `height * width * 3` bytes, RGB, rows from the top."""

    image: Image
    pixels: bytes


class Previews:
    """Pictures of latents that `vae` would decode. Nothing of `vae` is changed for good."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._map: torch.Tensor | None = None
        """[channels + 1, 3]: the last row is added."""

    def show(self, latents: torch.Tensor) -> Preview:
        """The picture of one image's latents, shape [channels, height, width]."""
        if self._map is None:
            self._map = _fit(self._vae)
        cells = latents.detach().to("cpu", torch.float32).permute(1, 2, 0)
        colours = cells @ self._map[:-1] + self._map[-1]
        pixels = ((colours / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        height, width, _ = pixels.shape
        return Preview(Image(width=width, height=height), pixels.numpy().tobytes())


def _fit(vae: Any) -> torch.Tensor:
    """Least squares. The random numbers are its own: no job's noise depends on a preview."""
    channels = int(vae.config.latent_channels)
    coarse = torch.randn(
        (1, channels, CELLS // PATCH, CELLS // PATCH), generator=torch.Generator().manual_seed(0)
    )
    latents = coarse.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    image = _decoded(vae, latents / vae.config.scaling_factor)
    colours = torch.nn.functional.adaptive_avg_pool2d(image, CELLS)
    known = torch.cat([latents, torch.ones_like(latents[:, :1])], 1)
    return torch.linalg.lstsq(_rows(known), _rows(colours)).solution


def _rows(grid: torch.Tensor) -> torch.Tensor:
    """[1, channels, height, width] as [height * width, channels]."""
    return grid[0].flatten(1).T


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """[1, 3, height, width], -1 to 1, float32 on the CPU; in float32 where float16 overflows,
    as the pipeline itself does it."""
    dtype = vae.dtype
    upcast = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        vae.to(torch.float32)
    try:
        image: torch.Tensor = vae.decode(latents.to(vae.device, vae.dtype)).sample
        return image.to("cpu", torch.float32)
    finally:
        if upcast:
            vae.to(dtype)
