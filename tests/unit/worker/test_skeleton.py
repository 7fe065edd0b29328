"""The reference is `from_pretrained`: whatever layout lies on disk, the same bits or a refusal.

A skeleton is compared tensor by tensor (value, dtype, requires_grad; also buffers that are in no
file) and by the pixels that it draws.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.errors import ModelInvalid
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker import skeleton
from hermetic_worker.pipelines import pipeline_for
from hermetic_worker.pipelines.base import OUTLINED, Footprint, Pipeline
from hermetic_worker.skeleton import Unbuildable

from .conftest import DIFFUSERS

pytestmark = [
    *DIFFUSERS,
    # Of diffusers' own SDXL pipeline, wherever a VAE in float16 has to be decoded in float32.
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]

ARCHITECTURES = ("sd15", "sdxl")
DTYPES = ("float32", "float16", "bfloat16")
CLASSES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
TASK = TextToImage(
    prompts=("a red circle",), width=32, height=32, steps=1, guidance=7.5, seeds=(11,)
)
"""Small: a CPU computes slowly in half precision."""
STEM = "diffusion_pytorch_model.safetensors"
Save = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def bases(sd15_folder: Path, sdxl_folder: Path) -> dict[str, Path]:
    return {"sd15": sd15_folder, "sdxl": sdxl_folder}


def tensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(file)


def save(found: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file(found, file, metadata={"format": "pt"})


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: one for key, one in content.items() if one is not None}))


def reference(folder: Path, dtype: str = "float32") -> Any:
    import diffusers
    import torch

    return diffusers.DiffusionPipeline.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), local_files_only=True
    )


# The layouts in the wild. Each is made from a folder of whole float32 files.


def as_saved(base: Path, folder: Path) -> None:
    shutil.copytree(base, folder)


def stored_in_fp16(base: Path, folder: Path) -> None:
    reference(base, "float16").save_pretrained(folder)


def only_the_fp16_variant(base: Path, folder: Path) -> None:
    reference(base, "float16").save_pretrained(folder, variant="fp16")


def both_kinds(base: Path, folder: Path) -> None:
    shutil.copytree(base, folder)
    reference(base, "float16").save_pretrained(folder, variant="fp16")


def fp16_variant_of_one_component(base: Path, folder: Path) -> None:
    shutil.copytree(base, folder)
    file = folder / "unet" / STEM
    halved = {name: one.half() for name, one in tensors(file).items()}
    save(halved, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.unlink()


def in_shards(base: Path, folder: Path) -> None:
    reference(base).save_pretrained(folder, max_shard_size="1MB")
    assert (folder / "unet" / f"{STEM}.index.json").exists()
    assert (folder / "text_encoder" / "model.safetensors.index.json").exists()


def in_shards_of_the_fp16_variant(base: Path, folder: Path) -> None:
    pipe = reference(base, "float16")
    pipe.save_pretrained(folder, max_shard_size="1MB", variant="fp16")
    assert (folder / "unet" / f"{STEM}.index.fp16.json").exists()


def with_old_clip_names(base: Path, folder: Path) -> None:
    """transformers 4: everything under `text_model.`, and a buffer that is none any more."""
    import torch

    shutil.copytree(base, folder)
    for file in folder.glob("text_encoder*/model.safetensors"):
        old = {
            name if name.startswith("text_") else f"text_model.{name}": one
            for name, one in tensors(file).items()
        }
        old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save(old, file)


def with_old_attention_names(base: Path, folder: Path) -> None:
    """diffusers before 0.14, for the attention of the VAE."""
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    shutil.copytree(base, folder)
    file = folder / "vae" / STEM
    found = tensors(file)
    for name in [name for name in found if ".attentions.0.to_" in name]:
        start, _, end = name.partition(".attentions.0.")
        part, _, kind = end.rpartition(".")
        found[f"{start}.attentions.0.{new[part]}.{kind}"] = found.pop(name)
    assert "encoder.mid_block.attentions.0.query.weight" in found
    save(found, file)


def with_tensors_nobody_knows(base: Path, folder: Path) -> None:
    import torch

    shutil.copytree(base, folder)
    file = folder / "unet" / STEM
    save(tensors(file) | {"ema.decay": torch.ones(3)}, file)


LAYOUTS: dict[str, Save] = {
    save.__name__: save
    for save in (
        as_saved,
        stored_in_fp16,
        only_the_fp16_variant,
        both_kinds,
        fp16_variant_of_one_component,
        in_shards,
        in_shards_of_the_fp16_variant,
        with_old_clip_names,
        with_old_attention_names,
        with_tensors_nobody_knows,
    )
}
CASES = [
    *((layout, dtype) for layout in ("as_saved", "stored_in_fp16") for dtype in DTYPES),
    *((layout, "float32") for layout in list(LAYOUTS)[2:]),
    ("only_the_fp16_variant", "float16"),
]


@pytest.fixture(scope="module")
def laid_out(
    bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """A folder of the architecture in that layout, made once."""
    made: dict[tuple[str, str], Path] = {}

    def make(architecture: str, layout: str) -> Path:
        key = architecture, layout
        if key not in made:
            folder = tmp_path_factory.mktemp("layouts") / layout
            LAYOUTS[layout](bases[architecture], folder)
            made[key] = folder
        return made[key]

    return make


def spec_of(architecture: str, folder: Path, dtype: str = "float32") -> ModelSpec:
    return ModelSpec(name="m", architecture=architecture, path=str(folder), dtype=dtype)


def load(pipeline: Pipeline, spec: ModelSpec) -> Footprint:
    assign = Assign(model=spec, device="cpu", smoke="never")
    return pipeline.load(assign, lambda stage, fraction: None)


def draw(pipeline: Pipeline) -> bytes:
    result = pipeline.run(TASK, lambda step, steps, timestep=None, show=None: None)
    return b"".join(bytes(frame) for frame in result.frames)


def held(pipe: Any) -> dict[str, tuple[Any, ...]]:
    """Every tensor of the pipeline: dtype, shape, requires_grad and bits."""
    import torch

    found = {}
    for component, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            for name, one in [*module.named_parameters(), *module.named_buffers()]:
                bits = one.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{component}.{name}"] = one.dtype, one.shape, one.requires_grad, bits
    return found


def assert_same(fast: Any, slow: Any) -> None:
    """The two pipelines hold the same; names the first tensors that differ."""
    ours, theirs = held(fast), held(slow)
    assert ours.keys() == theirs.keys()
    differ = [
        (name, ours[name][:3], theirs[name][:3]) for name in ours if ours[name] != theirs[name]
    ]
    assert not differ, differ[:5]
    assert any("position_ids" in name for name in ours), "no non-persistent buffer was compared"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("layout", "dtype"), CASES)
def test_the_skeleton_is_the_reference_to_the_bit(
    layout: str, dtype: str, architecture: str, laid_out: Callable[[str, str], Path]
) -> None:
    spec = spec_of(architecture, laid_out(architecture, layout), dtype)
    fast, slow = pipeline_for(architecture), pipeline_for(architecture)
    assert fast.outline(spec, "cpu") == OUTLINED
    assert set(load(fast, spec).loaded_by.values()) == {"skeleton"}
    assert set(load(slow, spec).loaded_by.values()) == {"from_pretrained"}
    assert_same(fast._pipe, slow._pipe)  # type: ignore[attr-defined]
    assert draw(fast) == draw(slow)


def test_a_safety_checker_is_built_too(bases: dict[str, Path], tmp_path: Path) -> None:
    """Its class lies beside the pipelines, its buffers are of a vision model."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        text_config={**sizes, "vocab_size": 16},
        projection_dim=16,
    )
    folder = tmp_path / "safe"
    shutil.copytree(bases["sd15"], folder)
    StableDiffusionSafetyChecker(config).save_pretrained(folder / "safety_checker")
    extractor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    extractor.save_pretrained(folder / "feature_extractor")
    edit(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    built = skeleton.build(folder, CLASSES["sd15"], "float32")
    built.convert()
    assert "safety_checker" in built.modules
    assert_same(built.pipe, reference(folder))


def test_entries_left_out_on_purpose_stay_left_out(bases: dict[str, Path]) -> None:
    built = skeleton.build(bases["sd15"], CLASSES["sd15"], "float32")
    assert built.pipe.safety_checker is None
    assert built.pipe.feature_extractor is None


# Tied weights: one tensor, two names.


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 encoder in half precision; its file has the embedding once."""
    import torch
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5") / "text_encoder"
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=16,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
    )
    T5EncoderModel(config).half().save_pretrained(folder)
    return folder


def tied(folder: Path) -> skeleton.Skeleton:
    """Nothing but the encoder, in the hands of a skeleton."""
    from types import SimpleNamespace

    from transformers import T5EncoderModel

    files = [folder / "model.safetensors"]
    module = skeleton._module(T5EncoderModel, folder, "float32")
    slots = skeleton._wire_up("text_encoder", module, files)
    built = skeleton.Skeleton(
        pipe=SimpleNamespace(text_encoder=module),
        dtype="float32",
        stamp="",
        _files={"text_encoder": files},
        _slots={"text_encoder": slots},
    )
    built.bind()
    return built


def test_tied_weights_are_one_tensor_under_both_names(t5: Path) -> None:
    module = tied(t5).pipe.text_encoder
    assert module.shared.weight is module.encoder.embed_tokens.weight
    assert not module.shared.weight.is_meta


def test_tied_weights_are_one_tensor_after_a_conversion_too(t5: Path) -> None:
    """Converted under one name alone, the encoder would look its tokens up in the other dtype."""
    import torch
    from transformers import T5EncoderModel

    built = tied(t5)
    built.convert()
    module = built.pipe.text_encoder
    assert module.shared.weight is module.encoder.embed_tokens.weight
    slow = T5EncoderModel.from_pretrained(t5, dtype=torch.float32).eval()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(module(tokens)[0], slow(tokens)[0])


def test_tied_weights_are_given_back_under_both_names(t5: Path) -> None:
    built = tied(t5)
    built.release()
    assert all(one.is_meta for one in built.pipe.text_encoder.parameters())
    assert not mapped_below(t5)


# The life of the maps.


def mapped_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


@pytest.fixture
def own(bases: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD1.5 that may be spoilt."""
    folder = tmp_path / "own"
    shutil.copytree(bases["sd15"], folder)
    return folder


def test_released_and_bound_again_it_is_what_it_was(own: Path) -> None:
    built = skeleton.build(own, CLASSES["sd15"], "float32")
    before = held(built.pipe)
    assert len(mapped_below(own)) == 3
    built.release()
    gc.collect()
    assert all(slot.tensor.is_meta for slot in built.slots())
    assert not mapped_below(own)
    built.bind()
    assert held(built.pipe) == before


def test_the_maps_go_with_the_skeleton(own: Path) -> None:
    built = skeleton.build(own, CLASSES["sd15"], "float32")
    assert mapped_below(own)
    del built
    gc.collect()
    assert not mapped_below(own)


def test_what_is_converted_lets_go_of_its_file(own: Path) -> None:
    built = skeleton.build(own, CLASSES["sd15"], "float16")
    built.convert()
    gc.collect()
    assert not mapped_below(own)


# What cannot be built is refused in words.


def refuse(folder: Path, match: str, dtype: str = "float32") -> None:
    with pytest.raises((Unbuildable, ModelInvalid), match=match):
        skeleton.build(folder, CLASSES["sd15"], dtype)


def test_a_class_that_keeps_layers_in_float32_is_left_to_the_reference(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "_keep_in_fp32_modules", ["time_embedding"])
    refuse(own, "UNet2DConditionModel keeps time_embedding in float32", "float16")
    skeleton.build(own, CLASSES["sd15"], "float32")


def test_t5_keeps_layers_in_float32_by_its_own_word(t5: Path) -> None:
    from transformers import T5EncoderModel

    with pytest.raises(Unbuildable, match="T5EncoderModel keeps wo in float32"):
        skeleton._module(T5EncoderModel, t5, "float16")


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_quantised_component_is_left_to_the_reference(component: str, own: Path) -> None:
    config = own / component / "config.json"
    edit(config, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    refuse(own, "is quantised")


@pytest.mark.parametrize(
    "entry",
    [
        ["diffusers", "UNetOfTomorrow"],
        ["transformers", "NoSuchModel"],
        ["unet", "CodeThatLiesInTheFolder"],
        ["os", "system"],
    ],
)
def test_a_class_that_the_libraries_do_not_have_is_refused(entry: list[str], own: Path) -> None:
    edit(own / "model_index.json", unet=entry)
    refuse(own, rf"{entry[0]}\.{entry[1]} is no class")


def test_a_missing_tensor_is_refused_by_its_name(own: Path) -> None:
    file = own / "unet" / STEM
    found = tensors(file)
    del found["conv_in.bias"]
    save(found, file)
    refuse(own, r"no file of unet has conv_in\.bias")


def test_a_tensor_of_another_shape_than_configured_is_refused(own: Path) -> None:
    file = own / "unet" / STEM
    found = tensors(file)
    found["conv_in.bias"] = found["conv_in.bias"][:-1].clone()
    save(found, file)
    refuse(own, r"unet\.conv_in\.bias is \(319,\) in the file and \(320,\) by the configuration")


def test_whole_and_sharded_weights_side_by_side_are_refused(own: Path) -> None:
    (own / "unet" / f"{STEM}.index.json").write_text(json.dumps({"weight_map": {"a": STEM}}))
    refuse(own, "remove one")


def test_a_file_cut_in_half_is_refused(own: Path) -> None:
    file = own / "vae" / STEM
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refuse(own, "damaged")


def test_pickled_weights_alone_are_refused(own: Path) -> None:
    (own / "unet" / STEM).rename(own / "unet" / "diffusion_pytorch_model.bin")
    refuse(own, "only pickled weights")


def test_the_folder_of_another_pipeline_is_refused(bases: dict[str, Path]) -> None:
    refuse(bases["sdxl"], "declares StableDiffusionXLPipeline")


# Files that change after the outline.


def replace(file: Path, found: dict[str, Any]) -> None:
    save(found, file.with_name("new"))
    file.with_name("new").rename(file)


def write_in_place(file: Path, found: dict[str, Any]) -> None:
    save(found, file.with_name("new"))
    content = file.with_name("new").read_bytes()
    file.with_name("new").unlink()
    with file.open("r+b") as stream:
        stream.write(content)


@pytest.mark.parametrize("change", [replace, write_in_place])
def test_files_changed_after_the_outline_are_loaded_as_they_are_now(
    change: Callable[[Path, dict[str, Any]], None], own: Path
) -> None:
    """Half of the old model and half of the new one would draw, and nobody would know."""
    pipeline, spec = pipeline_for("sd15"), spec_of("sd15", own)
    assert pipeline.outline(spec, "cpu") == OUTLINED
    file = own / "unet" / STEM
    change(file, {name: one * 1.5 for name, one in tensors(file).items()})
    footprint = load(pipeline, spec)
    assert footprint.stale_template
    assert set(footprint.loaded_by.values()) == {
        "from_pretrained: the files changed after the template was made"
    }
    fresh = pipeline_for("sd15")
    load(fresh, spec)
    assert_same(pipeline._pipe, fresh._pipe)  # type: ignore[attr-defined]
    assert draw(pipeline) == draw(fresh)


def test_files_that_have_not_changed_are_not_stale(own: Path) -> None:
    pipeline, spec = pipeline_for("sd15"), spec_of("sd15", own)
    pipeline.outline(spec, "cpu")
    assert not load(pipeline, spec).stale_template


def test_a_model_that_could_not_be_outlined_says_why_it_was_loaded_whole(own: Path) -> None:
    (own / "unet" / f"{STEM}.index.json").write_text(json.dumps({"weight_map": {"a": STEM}}))
    pipeline, spec = pipeline_for("sd15"), spec_of("sd15", own)
    why = pipeline.outline(spec, "cpu")
    assert "remove one" in why
    (own / "unet" / f"{STEM}.index.json").unlink()
    footprint = load(pipeline, spec)
    assert set(footprint.loaded_by.values()) == {f"from_pretrained: {why}"}
    assert not footprint.stale_template
