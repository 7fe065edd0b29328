"""Names that files of older libraries have, and names that are left alone."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from hermetic_worker import libraries
from hermetic_worker.checkpoint_keys import renamed, stem

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS


@pytest.fixture(scope="module")
def clip() -> Any:
    libraries.bring_in()
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=8,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
            )
        )


@pytest.fixture(scope="module")
def vae() -> Any:
    libraries.bring_in()
    import diffusers
    import torch

    with torch.device("meta"):
        return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


def test_each_library_has_its_own_name_for_weights(clip: Any, vae: Any) -> None:
    assert stem(clip) == "model"
    assert stem(vae) == "diffusion_pytorch_model"


def test_names_of_today_stay_what_they_are(clip: Any, vae: Any) -> None:
    for module in (clip, vae):
        today = list(module.state_dict())
        assert renamed(module, today) == {name: name for name in today}


def test_the_prefix_that_clip_has_lost_is_taken_off(clip: Any) -> None:
    today = list(clip.state_dict())
    old = {f"text_model.{name}": name for name in today}
    assert renamed(clip, old) == old


def test_the_attention_of_an_old_vae_is_found(vae: Any) -> None:
    place = "encoder.mid_block.attentions.0"
    old = {
        f"{place}.query.weight": f"{place}.to_q.weight",
        f"{place}.key.bias": f"{place}.to_k.bias",
        f"{place}.value.weight": f"{place}.to_v.weight",
        f"{place}.proj_attn.bias": f"{place}.to_out.0.bias",
        "encoder.conv_in.weight": "encoder.conv_in.weight",
    }
    assert set(old.values()) <= vae.state_dict().keys()
    assert renamed(vae, old) == old


def test_what_nobody_knows_keeps_its_name(clip: Any, vae: Any) -> None:
    for module in (clip, vae):
        assert renamed(module, ["of.nobody"]).get("of.nobody", "of.nobody") not in (
            module.state_dict()
        )


def test_a_transformers_without_the_mapping_leaves_the_names_as_they_are(
    clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing then is refused, and loaded by the reference."""
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    assert renamed(clip, ["text_model.a", "b"]) == {"text_model.a": "text_model.a", "b": "b"}
