"""Each check alone, on stand-ins that have only what it looks at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hermetic_wire.errors import LoadFailed, ModelInvalid
from hermetic_worker import checks, libraries

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS


@pytest.fixture(autouse=True)
def torch() -> Any:
    libraries.bring_in()
    import torch

    return torch


def module(**config: object) -> SimpleNamespace:
    """What the checks take for a torch module with a config."""
    return SimpleNamespace(parameters=list, config=SimpleNamespace(**config))


def pipe_of(**components: Any) -> SimpleNamespace:
    return SimpleNamespace(components=components, **components)


def test_another_class_than_declared() -> None:
    checks.declared_class(SimpleNamespace(), "SimpleNamespace")
    with pytest.raises(ModelInvalid, match="declares X, but a SimpleNamespace"):
        checks.declared_class(SimpleNamespace(), "X")


def test_a_missing_component_is_named() -> None:
    with pytest.raises(ModelInvalid, match="needs vae, text_encoder_2, which"):
        checks.nothing_missing(pipe_of(unet=1, vae=None), ["unet", "vae", "text_encoder_2"])


@pytest.mark.parametrize("buffer", [False, True])
def test_a_tensor_without_values_is_named(torch: Any, buffer: bool) -> None:
    layer = torch.nn.Linear(2, 2)
    checks.no_meta_tensor(pipe_of(unet=layer))
    empty = torch.empty(2, device="meta")
    if buffer:
        layer.register_buffer("ids", empty, persistent=False)
    else:
        layer.bias = torch.nn.Parameter(empty)
    with pytest.raises(ModelInvalid, match=r"unet\.(ids|bias) was given no values"):
        checks.no_meta_tensor(pipe_of(unet=layer))


@pytest.mark.parametrize("context", [2048, (2048, 2048), ((2048, 2048), 2048)])
def test_the_widths_of_all_text_encoders_add_up(context: object) -> None:
    texts = {"text_encoder": module(hidden_size=768), "text_encoder_2": module(hidden_size=1280)}
    checks.text_widths(pipe_of(unet=module(cross_attention_dim=context), **texts))


@pytest.mark.parametrize("context", [768, (2048, 768)])
def test_other_widths_are_refused(context: object) -> None:
    texts = {"text_encoder": module(hidden_size=768), "text_encoder_2": module(hidden_size=1280)}
    with pytest.raises(ModelInvalid, match=r"text_encoder 768 \+ text_encoder_2 1280 = 2048"):
        checks.text_widths(pipe_of(unet=module(cross_attention_dim=context), **texts))


def test_unet_and_vae_share_their_latents() -> None:
    pipe = pipe_of(unet=module(out_channels=4), vae=module(latent_channels=16))
    with pytest.raises(ModelInvalid, match="draws 4 latent channels, but the VAE decodes 16"):
        checks.latent_channels(pipe)


def test_weights_held_in_another_dtype(torch: Any) -> None:
    pipe = SimpleNamespace(unet=SimpleNamespace(dtype=torch.float32))
    checks.held_in(pipe, "float32")
    with pytest.raises(LoadFailed, match="too old"):
        checks.held_in(pipe, "float16")


class Drawing:
    """A pipeline that yields one value, or raises it."""

    vae_scale_factor = 8
    dtype = "float16"

    def __init__(self, found: Any) -> None:
        self._found = found

    def __call__(self, **arguments: Any) -> SimpleNamespace:
        assert (arguments["width"], arguments["num_inference_steps"]) == (64, 1)
        if isinstance(self._found, Exception):
            raise self._found
        return SimpleNamespace(images=self._found)


def test_a_step_that_yields_no_numbers(torch: Any) -> None:
    checks.draws(Drawing(torch.zeros(1)), {"prompt": "x"})
    with pytest.raises(ModelInvalid, match="dtype to float32"):
        checks.draws(Drawing(torch.tensor([0.0, torch.nan])), {"prompt": "x"})


def test_a_step_that_raises() -> None:
    with pytest.raises(ModelInvalid, match="its first step raised: shapes"):
        checks.draws(Drawing(RuntimeError("shapes")), {"prompt": "x"})


def test_a_step_without_memory_is_not_the_folders_fault() -> None:
    shortage = RuntimeError("can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="tried to allocate"):
        checks.draws(Drawing(shortage), {"prompt": "x"})
