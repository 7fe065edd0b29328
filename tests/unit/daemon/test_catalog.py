"""Which folders become models, and what is said of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic_daemon import folder
from hermetic_daemon.catalog import Catalog
from hermetic_daemon.config import ModelSection
from hermetic_wire.errors import ModelInvalid, UnknownModel

from .conftest import MakeFolder


def test_an_sd15_folder_is_known_by_its_class_and_width(make_folder: MakeFolder) -> None:
    found = folder.read(make_folder())
    assert found.architecture.name == "sd15"
    assert found.widths == {"unet.cross_attention_dim": 768, "text_encoder.hidden_size": 768}
    assert found.defaults == {"width": 64, "height": 64}
    assert found.size_bytes == 3 * len(b"weights")


def test_the_manifest_has_the_last_word_on_defaults(make_folder: MakeFolder) -> None:
    def change(files: dict[str, Any]) -> None:
        files["hermetic.json"] = {"defaults": {"steps": 9, "width": 96, "unknown": 1}}

    assert folder.read(make_folder(change=change)).defaults == {
        "steps": 9,
        "width": 96,
        "height": 64,
    }


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.pop(name)


def replace(name: str, text: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.update({name: text})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": 1024, "text": (1024,)}, "context width 1024"),
        ({"pipeline": "FluxPipeline"}, "FluxPipeline"),
        ({"pipeline": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline with context"),
        ({"text": (1280,)}, "mixes components of different models"),
        ({"text": ()}, "has no text_encoder"),
        ({"change": drop("model_index.json")}, "model_index.json cannot be read"),
        ({"change": replace("unet/config.json", "{")}, "is no JSON"),
        ({"change": replace("unet/config.json", "[]")}, "is no JSON object"),
        ({"change": replace("unet/config.json", "[" * 100_000)}, "is no JSON"),
    ],
)
def test_a_folder_that_would_load_wrong_is_refused_in_words(
    make_folder: MakeFolder, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelInvalid, match=words):
        folder.read(make_folder(**settings))


def test_an_sdxl_folder_without_its_second_text_encoder_is_refused(
    make_folder: MakeFolder,
) -> None:
    path = make_folder(pipeline="StableDiffusionXLPipeline", context=2048, text=(768,))
    with pytest.raises(ModelInvalid, match="has no text_encoder_2"):
        folder.read(path)


def test_pickled_weights_are_refused(make_folder: MakeFolder) -> None:
    path = make_folder()
    (path / "unet" / "model.safetensors").rename(path / "unet" / "model.bin")
    with pytest.raises(ModelInvalid, match=r"only model\.bin"):
        folder.read(path)


def test_a_model_with_a_problem_stays_listed_and_cannot_be_used(tmp_path: Path) -> None:
    catalog = Catalog({"broken": ModelSection(path=tmp_path / "nowhere")})
    assert "cannot be read" in (catalog.rows["broken"].problem or "")
    with pytest.raises(ModelInvalid, match=r"'broken' cannot be used.*nowhere"):
        catalog.find("broken")


def test_a_model_without_path_or_architecture_says_what_it_lacks() -> None:
    catalog = Catalog({"empty": ModelSection()})
    assert "has no path" in (catalog.rows["empty"].problem or "")


def test_a_configured_model_replaces_an_embedded_one_of_its_name(make_folder: MakeFolder) -> None:
    catalog = Catalog({"echo": ModelSection(path=make_folder())})
    assert catalog.rows["echo"].source == "configured"
    assert catalog.find("echo").architecture.name == "sd15"


def test_an_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(UnknownModel, match=r"Known: .*echo"):
        Catalog({}).find("something quite different")
