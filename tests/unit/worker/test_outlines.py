"""What a template has built, and for whom it counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from hermetic_wire.errors import ModelInvalid
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.outlines import Outlines
from hermetic_worker.pipelines import Factory
from hermetic_worker.pipelines.base import OUTLINED, Footprint, OnProgress, OnStep, Result
from hermetic_worker.pipelines.echo import Echo
from hermetic_worker.standby import Standby

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS


class Breaking:
    """A library that raises what nobody expects."""

    def outline(self, spec: ModelSpec, device: str) -> str:
        raise AttributeError("'NoneType' object has no attribute 'shape'")

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        return Footprint()

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        raise NotImplementedError


PIPELINES: dict[str, Factory] = {"echo": Echo, "breaking": Breaking}


def spec(name: str, architecture: str = "echo") -> ModelSpec:
    return ModelSpec(name=name, architecture=architecture)


def test_the_outlined_pipeline_is_taken_by_the_entry_it_was_made_of() -> None:
    outlines = Outlines(PIPELINES)
    assert outlines.build([spec("a"), spec("b")], "cpu") == {"a": OUTLINED, "b": OUTLINED}
    taken = outlines.take(spec("a"))
    assert taken is outlines.take(spec("a"))
    assert taken is not outlines.take(spec("b"))


@pytest.mark.parametrize(
    "change", [{"dtype": "float16"}, {"path": "/elsewhere"}, {"options": {"load_stages": 2}}]
)
def test_an_entry_that_was_edited_since_is_loaded_afresh(change: dict[str, object]) -> None:
    outlines = Outlines(PIPELINES)
    outlines.build([spec("a")], "cpu")
    edited = msgspec.structs.replace(spec("a"), **change)
    assert outlines.take(edited) is not outlines.take(spec("a"))


def test_a_model_of_an_architecture_nobody_serves_is_told_and_refused() -> None:
    outlines = Outlines(PIPELINES)
    found = outlines.build([spec("a", "flux"), spec("b")], "cpu")
    assert "'flux' was asked for" in found["a"]
    assert found["b"] == OUTLINED
    with pytest.raises(ModelInvalid, match="'flux' was asked for"):
        outlines.take(spec("a", "flux"))


def test_a_model_that_breaks_its_library_costs_no_other_its_outline() -> None:
    """Raised through, it would end the template of all models, at every start again."""
    outlines = Outlines(PIPELINES)
    found = outlines.build([spec("a", "breaking"), spec("b")], "cpu")
    assert "AttributeError" in found["a"]
    assert found["b"] == OUTLINED


@pytest.mark.parametrize(
    "config", ['{"_class_name": "UNet2DConditionModel", "block_out_channels": "x"}', "[]", "{"]
)
def test_a_configuration_that_makes_no_sense_is_told_in_words(
    config: str, sd15_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(sd15_folder, folder)
    (folder / "unet" / "config.json").write_text(config)
    broken = ModelSpec(name="a", architecture="sd15", path=str(folder))
    whole = ModelSpec(name="b", architecture="sd15", path=str(sd15_folder))
    found = Outlines().build([broken, whole], "cpu")
    assert found["a"] != OUTLINED
    assert found["a"]
    assert found["b"] == OUTLINED


def test_the_classes_are_told_once_each() -> None:
    outlines = Outlines(PIPELINES)
    entries = [("a", "X"), ("b", "W"), ("c", "X"), ("d", None)]
    outlines.build(
        [ModelSpec(name=name, architecture="echo", pipeline=kind) for name, kind in entries], "cpu"
    )
    assert outlines.class_names == ["W", "X"]
