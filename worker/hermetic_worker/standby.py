"""What a worker does before it knows its model: the device opened, its kernels run once.

Nothing done here may change a later image: what is random comes from generators of its own,
and the tiny pipelines are gone when `prepare` returns. Imports torch only inside what needs it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from . import libraries
from .device import Device, parse
from .laps import Laps

if TYPE_CHECKING:
    from .staging import Ring

__all__ = ["Standby", "prepare"]


@dataclass(frozen=True)
class Standby:
    """What a process has ready for whichever model comes."""

    device: Device
    """Claimed: the only one that this process sees."""
    ring: Ring | None
    """Staging memory for the copy to the device; None on a CPU, where there is no copy."""
    timings: dict[str, float]
    """Seconds by stage: `imports`, `context`, `kernels`, `ring`."""


def prepare(device_name: str, class_names: Iterable[str]) -> Standby:
    """Make the device ready for models of these diffusers pipeline classes, once per process.

    The kernels come before the staging memory, and long before any weights: the driver loads a
    kernel at its first use and takes a lock for it that a copy would have to wait for. Classes
    that are not known here are left to warm up with their model. Raises LoadFailed where the
    device cannot be had, torch's own error where it has no room.
    """
    laps = Laps()
    with laps.lap("imports"):
        libraries.bring_in()
    device = parse(device_name).claim()
    device.require()
    with laps.lap("context"):
        _open(device)
    with laps.lap("kernels"):
        for name in dict.fromkeys(class_names):
            if name in _TINY:
                _warm(_TINY[name], device)
        _clear(device)
    with laps.lap("ring"):
        ring = _ring(device)
    return Standby(device, ring, laps.seconds)


def _open(device: Device) -> None:
    """The device's context, which lasts as long as the process."""
    if device.kind == "cuda":
        import torch

        torch.cuda.init()
        torch.empty(1, device=device.torch_name)
        device.synchronize()


def _ring(device: Device) -> Ring | None:
    if device.kind == "cpu":
        return None
    from .staging import Ring

    return Ring.make(device)


def _clear(device: Device) -> None:
    """Give the tiny pipelines' memory back, and forget it in the figures of the model to come."""
    gc.collect()
    if device.kind == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device.torch_name)


@dataclass(frozen=True)
class _Scale:
    """How large a tiny pipeline is: on a GPU as wide as a real one, so that it runs its kernels.

    On a CPU no kernel has to be loaded, and time is short: there the smallest will do.
    """

    denoiser: tuple[int, int]
    """Channels of the UNet's two blocks."""
    decoder: tuple[int, int]
    """Channels of the VAE's two blocks: together they double a side once."""
    latents: int
    """Height and width of the latents."""


_REAL = _Scale(denoiser=(320, 640), decoder=(128, 512), latents=64)
_SMALL = _Scale(denoiser=(32, 64), decoder=(32, 64), latents=8)
_SIDES_PER_LATENT = 2


@dataclass(frozen=True)
class _Place:
    """Where and how the weights of a tiny pipeline are held."""

    torch_name: str
    dtype: Any
    generator: Any
    """Of the weights, on the device; torch's global ones are the model's."""

    def realize(self, module: Any) -> Any:
        """Weights for a module on the meta device, whose making touches no generator at all."""
        import torch

        module.to(self.dtype).to_empty(device=self.torch_name)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.02, generator=self.generator)
            for name, buffer in module.named_buffers():
                if name.endswith("position_ids"):  # what is no weight is made in vain on meta
                    buffer.copy_(torch.arange(buffer.shape[-1]))
        return module.eval()


_Built: TypeAlias = tuple[Any, dict[str, Any]]
"""A pipeline, and the arguments of its call that stand for its prompt."""


def _warm(build: Callable[[_Scale, _Place], _Built], device: Device) -> None:
    """One guided step and its decoding, in the dtype that models are held in by default."""
    import torch

    scale = _REAL if device.kind == "cuda" else _SMALL
    weights = torch.Generator(device.torch_name).manual_seed(0)
    place = _Place(device.torch_name, getattr(torch, device.default_dtype), weights)
    pipe, prompt = build(scale, place)
    pipe.set_progress_bar_config(disable=True)
    pipe(
        **prompt,
        num_inference_steps=1,
        guidance_scale=2.0,
        width=_SIDES_PER_LATENT * scale.latents,
        height=_SIDES_PER_LATENT * scale.latents,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    device.synchronize()


def _stable_diffusion(scale: _Scale, place: _Place) -> _Built:
    """SD1.x: attention of 8 heads in both halves, one text encoder of 768."""
    import diffusers

    unet = _on_meta(
        diffusers.UNet2DConditionModel,
        sample_size=scale.latents,
        block_out_channels=scale.denoiser,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    pipe = libraries.pipeline_class("StableDiffusionPipeline")(
        vae=_vae(scale, place),
        text_encoder=None,
        tokenizer=None,
        unet=place.realize(unet),
        scheduler=_noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    embeddings = _encode(_text_encoder("CLIPTextModel", 768, place)).last_hidden_state
    return pipe, {"prompt_embeds": embeddings, "negative_prompt_embeds": embeddings}


def _stable_diffusion_xl(scale: _Scale, place: _Place) -> _Built:
    """SDXL: heads of 64, linear projections, two text encoders side by side."""
    import diffusers
    import torch

    unet = _on_meta(
        diffusers.UNet2DConditionModel,
        sample_size=scale.latents,
        block_out_channels=scale.denoiser,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=tuple(max(1, width // 64) for width in scale.denoiser),
        use_linear_projection=True,
        cross_attention_dim=768 + 1280,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 1280,
    )
    pipe = libraries.pipeline_class("StableDiffusionXLPipeline")(
        vae=_vae(scale, place),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=place.realize(unet),
        scheduler=_noise_schedule(),
        add_watermarker=False,
    )
    first = _encode(_text_encoder("CLIPTextModel", 768, place))
    second = _encode(_text_encoder("CLIPTextModelWithProjection", 1280, place))
    embeddings = torch.concat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return pipe, {
        "prompt_embeds": embeddings,
        "negative_prompt_embeds": embeddings,
        "pooled_prompt_embeds": second.text_embeds,
        "negative_pooled_prompt_embeds": second.text_embeds,
    }


_TINY: Mapping[str, Callable[[_Scale, _Place], _Built]] = MappingProxyType(
    {
        "StableDiffusionPipeline": _stable_diffusion,
        "StableDiffusionXLPipeline": _stable_diffusion_xl,
    }
)


def _on_meta(kind: Any, *arguments: Any, **settings: Any) -> Any:
    import torch

    with torch.device("meta"):
        return kind(*arguments, **settings)


def _vae(scale: _Scale, place: _Place) -> Any:
    import diffusers

    vae = _on_meta(
        diffusers.AutoencoderKL,
        block_out_channels=scale.decoder,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=_SIDES_PER_LATENT * scale.latents,
    )
    return place.realize(vae)


def _text_encoder(kind: str, width: int, place: _Place) -> Any:
    """One layer of the real width, in heads of 64, with the activation that goes with it."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=8,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act="gelu" if kind.endswith("Projection") else "quick_gelu",
    )
    return place.realize(_on_meta(getattr(transformers, kind), config))


def _encode(encoder: Any) -> Any:
    """A prompt's worth of tokens; which ones is no matter."""
    import torch

    tokens = torch.zeros(1, 77, dtype=torch.int64, device=encoder.device)
    with torch.no_grad():
        return encoder(tokens, output_hidden_states=True)


def _noise_schedule() -> Any:
    """One that draws no noise of its own."""
    import diffusers

    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
