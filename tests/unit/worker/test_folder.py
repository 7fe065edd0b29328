"""What a model's folder tells before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic_wire.errors import ModelInvalid
from hermetic_worker.folder import Folder

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    for component in ("unet", "vae"):
        (tmp_path / component).mkdir()
        (tmp_path / component / "config.json").write_text("{}")
    return tmp_path


def test_it_declares_class_and_components(folder: Path) -> None:
    read = Folder.read(str(folder))
    assert read.class_name == "StableDiffusionPipeline"
    assert read.components == {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    read.require_class("StableDiffusionPipeline")


def test_another_class_than_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(ModelInvalid, match="declares StableDiffusionPipeline"):
        Folder.read(str(folder)).require_class("StableDiffusionXLPipeline")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_class_name": 3}'])
def test_no_index_no_model(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelInvalid, match=r"model_index\.json"):
        Folder.read(str(folder))


@pytest.mark.parametrize("path", [None, "/nowhere/at/all"])
def test_no_folder_no_model(path: str | None) -> None:
    with pytest.raises(ModelInvalid):
        Folder.read(path)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["diffusion_pytorch_model.safetensors"], None),
        (["diffusion_pytorch_model.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16"),
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], None),
    ],
)
def test_the_variant_is_known_by_its_files(
    folder: Path, names: list[str], variant: str | None
) -> None:
    for name in names:
        (folder / "unet" / name).touch()
    assert Folder.read(str(folder)).variant() == variant


def test_pickled_weights_alone_are_refused(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(ModelInvalid, match="only pickled weights"):
        Folder.read(str(folder)).variant()


def test_a_listed_component_that_is_not_there_is_refused(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()
    with pytest.raises(ModelInvalid, match="lists vae"):
        Folder.read(str(folder)).variant()
