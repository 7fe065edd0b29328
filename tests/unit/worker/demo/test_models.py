"""The shipped models: the folders are what they claim to be, and the pictures are right."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hermetic_worker.demo import MODELS
from hermetic_worker.demo.score import cases, generate, score

# Of diffusers' multistep schedulers under numpy 2.4, at every picture.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ["demo-sd15", "demo-sdxl"]
MEBIBYTE = 2**20


def read(name: str, file: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((MODELS / name / file).read_text(encoding="utf-8"))
    return content


def weights(name: str, part: str) -> Path:
    (file,) = (MODELS / name / part).glob("*.safetensors")
    return file


def test_the_folders_name_their_pipelines() -> None:
    classes = {name: read(name, "model_index.json")["_class_name"] for name in NAMES}
    assert classes == {
        "demo-sd15": "StableDiffusionPipeline",
        "demo-sdxl": "StableDiffusionXLPipeline",
    }


def test_the_widths_are_those_of_the_real_models() -> None:
    assert read("demo-sd15", "text_encoder/config.json")["hidden_size"] == 768
    assert read("demo-sd15", "unet/config.json")["cross_attention_dim"] == 768
    assert read("demo-sdxl", "text_encoder/config.json")["hidden_size"] == 768
    assert read("demo-sdxl", "text_encoder_2/config.json")["hidden_size"] == 1280
    assert read("demo-sdxl", "unet/config.json")["cross_attention_dim"] == 2048
    assert read("demo-sdxl", "unet/config.json")["addition_embed_type"] == "text_time"


@pytest.mark.parametrize(("name", "width"), [("demo-sd15", 768), ("demo-sdxl", 2048)])
def test_the_weights_have_the_width_the_config_says(name: str, width: int) -> None:
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with safe_open(weights(name, "unet"), framework="pt") as file:
        assert file.get_tensor(key).shape[-1] == width


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_kept_in_half_precision(name: str) -> None:
    for file in (MODELS / name).glob("*/*.safetensors"):
        with safe_open(file, framework="pt") as content:
            types = {content.get_slice(key).get_dtype() for key in content.keys()}  # noqa: SIM118
        assert types == {"F16"}, file


def test_the_two_denoisers_learnt_different_weights() -> None:
    with (
        safe_open(weights("demo-sd15", "unet"), framework="pt") as first,
        safe_open(weights("demo-sdxl", "unet"), framework="pt") as second,
    ):
        kernels = [key for key in first.keys() if "resnets" in key and "conv" in key]  # noqa: SIM118
        assert kernels
        for key in kernels:
            assert not torch.equal(first.get_tensor(key), second.get_tensor(key)), key


@pytest.mark.parametrize("name", NAMES)
def test_manifests_give_defaults(name: str) -> None:
    defaults = read(name, "hermetic.json")["defaults"]
    assert isinstance(defaults, dict)
    assert set(defaults) == {"steps", "guidance", "width", "height"}
    assert 8 <= defaults["steps"] <= 12
    assert (defaults["width"], defaults["height"]) == (64, 64)


def test_configs_name_no_path_of_the_machine_that_made_them() -> None:
    configs = list(MODELS.glob("*/*/config.json"))
    assert configs
    assert not [file for file in configs if "_name_or_path" in file.read_text(encoding="utf-8")]


def test_the_models_are_small() -> None:
    sizes = [file.stat().st_size for file in MODELS.rglob("*") if file.is_file()]
    assert max(sizes) < 50 * MEBIBYTE
    assert sum(sizes) < 100 * MEBIBYTE


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_what_the_prompts_say(name: str) -> None:
    asked = cases()[::12]
    report = score(asked, generate(MODELS / name, asked))
    assert report.totals["colour"] >= 0.9, report.misses
    assert report.totals["background"] >= 0.9, report.misses
    assert report.totals["kind"] >= 0.8, report.misses


def test_the_two_models_make_different_pictures() -> None:
    asked = cases()[:1]
    first, second = (generate(MODELS / name, asked)[0] for name in NAMES)
    assert not torch.equal(first, second)
