"""Is a loaded pipeline what it claims to be? Each check names the accident it prevents.

diffusers loads many a wrong folder without an error and fails at the first image, or draws
noise. Here it fails before the worker says Ready. They raise ModelInvalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hermetic_wire.errors import LoadFailed, ModelInvalid

from . import failures

__all__ = [
    "declared_class",
    "draws",
    "held_in",
    "latent_channels",
    "no_meta_tensor",
    "nothing_missing",
    "text_widths",
]

SMOKE_LATENTS = 8
"""Height and width of the smoke run's latents: the smallest that three halvings leave."""


def declared_class(pipe: Any, declared: str) -> None:
    """A folder of one pipeline that was loaded as another: `from_pretrained` does as it is told."""
    found = type(pipe).__name__
    if found != declared:
        raise ModelInvalid(f"model_index.json declares {declared}, but a {found} was loaded.")


def nothing_missing(pipe: Any, required: Iterable[str]) -> None:
    """An SD1.5 folder loaded as SDXL gets `text_encoder_2=None` and no complaint."""
    missing = [name for name in required if getattr(pipe, name, None) is None]
    if missing:
        raise ModelInvalid(
            f"A {type(pipe).__name__} needs {', '.join(missing)}, which the folder does not have. "
            "It is incomplete, or of another architecture."
        )


def no_meta_tensor(pipe: Any) -> None:
    """Weights of a wrong class only make diffusers warn; the parameters stay on meta, empty."""
    for name, module in _modules(pipe):
        for tensor_name, tensor in _tensors(module):
            if tensor.is_meta:
                raise ModelInvalid(
                    f"{name}.{tensor_name} was given no values by the folder's weights: they do "
                    f"not belong to a {type(module).__name__}."
                )


def held_in(pipe: Any, dtype: str) -> None:
    """An older diffusers ignores the argument `dtype` silently. Raises LoadFailed: the folder
    is not to blame."""
    if str(pipe.unet.dtype) != f"torch.{dtype}":
        raise LoadFailed(
            f"The weights were asked for in {dtype}, but are held in {pipe.unet.dtype}. This "
            "version of diffusers is too old: install 0.42 or newer."
        )


def text_widths(pipe: Any) -> None:
    """The founding accident: embeddings of one width meet a denoiser made for another."""
    widths = {
        name: int(module.config.hidden_size)
        for name, module in _modules(pipe)
        if name.startswith("text_encoder")
    }
    wanted = set(_flat(pipe.unet.config.cross_attention_dim))
    if wanted != {sum(widths.values())}:
        found = " + ".join(f"{name} {width}" for name, width in widths.items())
        raise ModelInvalid(
            f"The UNet attends to {_listed(wanted)} values per token, but its text encoders give "
            f"{found} = {sum(widths.values())}. These components are of different models."
        )


def latent_channels(pipe: Any) -> None:
    """A VAE of another family (16 channels, say) beside a UNet that draws 4."""
    drawn = int(pipe.unet.config.out_channels)
    read = int(pipe.vae.config.latent_channels)
    if drawn != read:
        raise ModelInvalid(
            f"The UNet draws {drawn} latent channels, but the VAE decodes {read}. These "
            "components are of different models."
        )


def draws(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """What no config tells (truncated or mixed weights, overflow): one guided step, really run.

    `arguments` are the prompt's; the size and the rest are the smallest there is.
    """
    import torch

    side = SMOKE_LATENTS * int(pipe.vae_scale_factor)
    try:
        images = pipe(
            **arguments,
            num_inference_steps=1,
            guidance_scale=2.0,
            width=side,
            height=side,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        if failures.is_shortage(error):
            raise
        raise ModelInvalid(
            f"The folder loads as a {type(pipe).__name__}, but its first step raised: {error}"
        ) from error
    if not bool(torch.isfinite(images).all()):
        raise ModelInvalid(
            f"The first step of this {type(pipe).__name__} yields no numbers (NaN) in "
            f"{pipe.dtype}. Set the model's dtype to float32, or replace its weights."
        )


def _modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in pipe.components.items() if hasattr(part, "parameters"))


def _tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _flat(value: int | Sequence[Any]) -> Iterator[int]:
    if isinstance(value, int):
        yield value
        return
    for item in value:
        yield from _flat(item)


def _listed(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))
