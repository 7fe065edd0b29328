"""The computed text encoders: what a token's state says, and that the shortcuts are exact."""

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from hermetic_worker.demo import text_encoders, tokenizer

CAPTIONS = ["a red circle on a blue background", "an image of a large pink heart, black background"]


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    return tokenizer.build()


@pytest.fixture(scope="module")
def narrow(words: CLIPTokenizer) -> nn.Module:
    return text_encoders.build(words, 768)


@pytest.fixture(scope="module")
def wide(words: CLIPTokenizer) -> nn.Module:
    return text_encoders.build(words, 1280)


def tokens(words: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = words(captions, padding="max_length", return_tensors="pt").input_ids
    return ids


def test_every_word_of_a_caption_is_one_token(words: CLIPTokenizer) -> None:
    assert words.tokenize(CAPTIONS[0]) == [word + "</w>" for word in CAPTIONS[0].split()]


def test_any_text_has_tokens(words: CLIPTokenizer) -> None:
    ids = tokens(words, ["An astronaut, riding a horse: \N{SNOWMAN}", ""])
    assert ids.shape == (2, 77)
    assert int(ids.max()) == words.eos_token_id


def test_the_tokenizer_is_the_same_every_time(words: CLIPTokenizer) -> None:
    assert tokenizer.build().get_vocab() == words.get_vocab()


def test_both_layouts_read_the_same_states(
    words: CLIPTokenizer, narrow: nn.Module, wide: nn.Module
) -> None:
    ids = tokens(words, [*CAPTIONS, ""])
    states = text_encoders.states(ids, text_encoders.word_codes(len(words)))
    with torch.no_grad():
        first = narrow(ids, output_hidden_states=True)
        second = wide(ids, output_hidden_states=True)
    close = {"atol": 2e-3, "rtol": 0}
    torch.testing.assert_close(first.last_hidden_state, states, **close)
    torch.testing.assert_close(first.hidden_states[-2], states, **close)
    torch.testing.assert_close(second.hidden_states[-2][..., :768], states, **close)


def test_the_shortcut_for_the_pooled_text_is_exact(words: CLIPTokenizer, wide: nn.Module) -> None:
    ids = tokens(words, [*CAPTIONS, ""])
    pooled = text_encoders.pooled(ids, text_encoders.word_codes(len(words), 1280))
    torch.testing.assert_close(wide(ids).text_embeds, pooled, atol=2e-3, rtol=0)


def test_a_state_knows_the_words_before_it(words: CLIPTokenizer) -> None:
    codes = text_encoders.word_codes(len(words))
    red, blue = (
        text_encoders.states(tokens(words, [f"a {colour} circle"]), codes)[0, 3]
        for colour in ("red", "blue")
    )
    differs = (red - blue).abs().view(6, 128).amax(1) > 0
    assert differs.tolist() == [False, True, False, False, False, False]


def test_all_padding_is_alike(words: CLIPTokenizer) -> None:
    ids = tokens(words, CAPTIONS)
    states = text_encoders.states(ids, text_encoders.word_codes(len(words)))
    first = int(ids.argmax(1).max()) + text_encoders.BACK
    assert bool((states[:, first:] == states[:, -1:]).all())
