"""A small tokenizer of CLIP's kind, in which every word of the captions is one token."""

import json
import random
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from .shapes import sample_scene

LENGTH = 77
"""Tokens of a prompt, padding included."""

_WORD_END = "</w>"
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_CORPUS = 20_000


def build() -> CLIPTokenizer:
    """Learn byte pairs from drawn captions. Words the captions lack fall into shorter pieces."""
    learner = Tokenizer(BPE(unk_token=_END, end_of_word_suffix=_WORD_END))
    clip = CLIPTokenizer()._tokenizer
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=2_000,
        min_frequency=2,
        initial_alphabet=_byte_letters(),
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    rng = random.Random("captions")
    learner.train_from_iterator((sample_scene(rng).caption for _ in range(_CORPUS)), trainer)
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # CLIP's order: letters, letters that end a word, merged pieces, the two special tokens.
    letters = _byte_letters()
    pieces = [*letters, *(letter + _WORD_END for letter in letters)]
    pieces += [left + right for left, right in merges]
    tokens = [*dict.fromkeys(pieces), _BEGIN, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def _byte_letters() -> list[str]:
    """One printable letter for each byte: GPT-2's table, which CLIP uses too."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    odd = [byte for byte in range(256) if byte not in plain]
    return [chr(code) for code in [*plain, *(256 + place for place in range(len(odd)))]]
