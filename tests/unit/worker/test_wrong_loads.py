"""Folders that diffusers loads without a complaint, or with a puzzling one. All are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.errors import LoadFailed, ModelInvalid
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.pipelines import pipeline_for
from support import tiny_models

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS

XL = "StableDiffusionXLPipeline"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copy(sd15_folder: Path, tmp_path: Path) -> Path:
    """A copy of the SD1.5 folder to spoil; the weights are links to the original's."""
    shutil.copytree(sd15_folder, tmp_path / "m", copy_function=_link_weights)
    return tmp_path / "m"


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).symlink_to(source)
    else:
        shutil.copy2(source, target)


def edit(file: Path, change: Change) -> None:
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


def load(architecture: str, folder: Path, **spec: Any) -> None:
    model = ModelSpec(name="m", architecture=architecture, path=str(folder), **spec)
    pipeline_for(architecture).load(Assign(model=model, device="cpu"), lambda stage, fraction: None)


def test_sd15_declared_as_sdxl_by_the_catalog(copy: Path) -> None:
    with pytest.raises(ModelInvalid, match="asked for as a StableDiffusionXLPipeline"):
        load("sdxl", copy)


def test_sd15_declared_as_sdxl_by_its_own_index(copy: Path) -> None:
    """`from_pretrained` takes it, with text_encoder_2=None."""
    edit(copy / "model_index.json", lambda index: index.update(_class_name=XL))
    with pytest.raises(ModelInvalid, match="needs text_encoder_2, tokenizer_2"):
        load("sdxl", copy, pipeline=XL)


def test_another_pipeline_than_the_architectures(copy: Path) -> None:
    with pytest.raises(ModelInvalid, match="sd15 is drawn by StableDiffusionPipeline"):
        load("sd15", copy, pipeline=XL)


@pytest.mark.parametrize("component", ["vae", "text_encoder", "unet"])
def test_a_component_left_out(copy: Path, component: str) -> None:
    edit(copy / "model_index.json", lambda index: index.update({component: [None, None]}))
    with pytest.raises(ModelInvalid, match=component):
        load("sd15", copy)


def test_wrong_widths(tmp_path: Path, sd15_folder: Path) -> None:
    broken = tiny_models.sd15(tmp_path / "broken", context=1024)
    with pytest.raises(ModelInvalid, match=r"attends to 1024 .* text_encoder 768 = 768"):
        load("sd15", broken)


def test_weights_of_another_class_stay_on_meta(copy: Path, sd15_folder: Path) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.symlink_to(sd15_folder / "unet" / weights.name)
    with pytest.raises(ModelInvalid, match=r"vae\.\S+ was given no values"):
        load("sd15", copy)


def test_a_vae_of_other_latents(copy: Path) -> None:
    edit(copy / "vae" / "config.json", lambda config: config.update(latent_channels=16))
    with pytest.raises(ModelInvalid, match="damaged, or of another model"):
        load("sd15", copy)


def test_damaged_weights(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    head = weights.read_bytes()[:100_000]
    weights.unlink()
    weights.write_bytes(head)
    with pytest.raises(ModelInvalid, match="damaged"):
        load("sd15", copy)


def test_a_device_that_is_not_there(copy: Path) -> None:
    model = ModelSpec(name="m", architecture="sd15", path=str(copy))
    with pytest.raises(LoadFailed, match="cuda:97"):
        pipeline_for("sd15").load(
            Assign(model=model, device="cuda:97"), lambda stage, fraction: None
        )


def test_an_unknown_dtype(copy: Path) -> None:
    with pytest.raises(LoadFailed, match="'int8' was asked for"):
        load("sd15", copy, dtype="int8")
