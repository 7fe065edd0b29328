"""CLIP text encoders whose weights are computed, not trained.

A token's state holds four codes: its own word's and those of the three words before it, so that
"circle" knows it is red and "background" knows it is blue. Real CLIP layers do that: the heads
of the first layer look one, two and three tokens back. Never reads a file.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .tokenizer import LENGTH

_HEAD = 64
_CODE = 128
"""Numbers in a word's code: what two heads carry."""

BACK = 3
_STATE = 768
"""Width of the part of a state that both encoders share."""

_PLACE = slice((BACK + 1) * _CODE, (BACK + 2) * _CODE)
"""Where a state keeps its position until the first layer has used it, and then the bag of words."""

_FOCUS = 60.0
"""Attention logit of the token looked for; e**-60 is what others get."""

_FALLBACK = 0.25
"""Share of the focus that the first token always has: it is seen where no earlier word is."""


def build(tokenizer: Any, width: int) -> nn.Module:
    """An encoder of 768 (`CLIPTextModel`, as SD1.5 has) or 1280 numbers (with projection).

    Both have two layers. The state after the first is what SDXL reads; the second leaves the
    768 encoder's state alone, so that SD1.5, which reads the last state, sees the same.
    """
    wide = width > _STATE
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=width // _HEAD,
        max_position_embeddings=LENGTH,
        hidden_act="gelu" if wide else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder: Any = (CLIPTextModelWithProjection if wide else CLIPTextModel)(config)
    encoder.requires_grad_(False).eval()
    body = getattr(encoder, "text_model", encoder)
    for name, weight in encoder.named_parameters():
        weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    body.embeddings.token_embedding.weight.copy_(word_codes(len(tokenizer), width))
    body.embeddings.position_embedding.weight.copy_(_places(width))
    _look_back(body.encoder.layers[0].self_attn, body.embeddings)
    if wide:
        _gather_words(body.encoder.layers[1].self_attn)
        encoder.text_projection.weight.copy_(torch.eye(width))
    return encoder


def word_codes(count: int, width: int = _STATE) -> Tensor:
    """The fixed random code of each token, padded with zeros to a state: (count, width).

    A state of four codes has a variance of 1 and a mean of 0: layer norm leaves it as it is.
    The 1280 encoder has a second code per word behind the shared part.
    """
    codes = torch.zeros(count, width)
    codes[:, :_CODE] = _random_codes(count, _CODE, seed=0) * math.sqrt(_STATE / (BACK + 1))
    if width > _STATE:
        rest = width - _STATE
        codes[:, _STATE:] = _random_codes(count, rest, seed=1) * math.sqrt(rest)
    return codes.half().float()


def states(ids: Tensor, codes: Tensor) -> Tensor:
    """What an encoder's first layer gives for token ids (batch, length): (batch, length, width).

    The same numbers as running it, hundreds of times faster, for training.
    """
    padded = torch.cat([ids[:, :1].expand(-1, BACK), ids], 1)
    length = ids.shape[1]
    words = codes[ids]
    for back in range(1, BACK + 1):
        earlier = padded[:, BACK - back : BACK - back + length]
        words[..., back * _CODE : (back + 1) * _CODE] = codes[earlier, :_CODE]
    return words


def pooled(ids: Tensor, codes: Tensor) -> Tensor:
    """What the 1280 encoder's projection gives for token ids (batch, length): (batch, 1280)."""
    rows = torch.arange(len(ids))
    # The highest id is the end token; padding is more of them.
    ends = ids.argmax(1)
    state = states(ids, codes)[rows, ends]
    sums = codes[ids, :_CODE].cumsum(1)[rows, ends]
    state[:, _PLACE] += sums / (ends + 1)[:, None]
    return nn.functional.layer_norm(state, state.shape[-1:])


def _random_codes(count: int, size: int, seed: int) -> Tensor:
    """Random directions with no mean: (count, size), each of length 1."""
    codes = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(codes - codes.mean(1, keepdim=True))


def _angles(places: int) -> Tensor:
    """Angles of each place, (places, 32): any two places less than 64 apart are orthogonal."""
    half = _HEAD // 2
    return torch.arange(places)[:, None] * (torch.arange(half) + 0.5) * (math.pi / half)


def _places(width: int) -> Tensor:
    """Position embeddings: cosines and sines, then their negatives for a mean of 0."""
    angles = _angles(LENGTH)
    code = torch.cat([angles.cos(), angles.sin()], 1)
    places = torch.zeros(LENGTH, width)
    places[:, _PLACE] = torch.cat([code, -code], 1)
    return places


def _look_back(attention: Any, embeddings: Any) -> None:
    """Set the first layer: heads 0 to 5 fetch earlier words, head 6 takes the position away."""
    place = _PLACE.start
    size = embeddings(input_ids=torch.tensor([[0]])).square().mean().rsqrt().item()
    # q . k / sqrt(64) must be the focus for a position code of length sqrt(32), scaled by size.
    gain = _FOCUS * math.sqrt(_HEAD) / (_HEAD / 2 * size * size)
    for head in range(2 * BACK + 1):
        back = head // 2 + 1 if head < 2 * BACK else 0
        rows = slice(head * _HEAD, (head + 1) * _HEAD)
        attention.k_proj.weight[rows, place : place + _HEAD] = torch.eye(_HEAD)
        attention.q_proj.weight[rows, place : place + _HEAD] = gain * _turn(back)
        attention.q_proj.bias[rows][: _HEAD // 2] = gain * size * _FALLBACK
        source = head % 2 * _HEAD if back else place
        attention.v_proj.weight[rows, source : source + _HEAD] = torch.eye(_HEAD)
        if back:
            target = back * _CODE + source
            attention.out_proj.weight[target : target + _HEAD, rows] = torch.eye(_HEAD) / size
        else:
            half = place + _HEAD
            attention.out_proj.weight[place:half, rows] = -torch.eye(_HEAD) / size
            attention.out_proj.weight[half : half + _HEAD, rows] = torch.eye(_HEAD) / size


def _turn(back: int) -> Tensor:
    """The rotation that takes a position code ``back`` places to the left."""
    angles = _angles(back + 1)[back]
    cosine, sine = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])


def _gather_words(attention: Any) -> None:
    """Set the second layer of the 1280 encoder: a mean of all words so far, for the pooled text."""
    # Queries of zero weigh every token alike; states of unit variance pass the layer norm as is.
    for start in (0, _HEAD):
        rows = slice(start, start + _HEAD)
        attention.v_proj.weight[rows, rows] = torch.eye(_HEAD)
        target = _PLACE.start + start
        attention.out_proj.weight[target : target + _HEAD, rows] = torch.eye(_HEAD)
