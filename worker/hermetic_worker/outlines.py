"""The pipelines that a template has built as far as it may, and that its workers are born with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from hermetic_wire.errors import HermeticError
from hermetic_wire.worker import ModelSpec

from .pipelines import PIPELINES, Factory, pipeline_for
from .pipelines.base import Pipeline

__all__ = ["Outlines"]

log = logging.getLogger(__name__)


class Outlines:
    """Pipelines by model. In a worker that was not forked there are none."""

    def __init__(self, pipelines: Mapping[str, Factory] = PIPELINES) -> None:
        self._pipelines = pipelines
        self._built: dict[str, tuple[ModelSpec, Pipeline]] = {}

    def build(self, models: Iterable[ModelSpec], device: str) -> dict[str, str]:
        """Outline each model; by its name OUTLINED, or why a worker has to load it whole."""
        found: dict[str, str] = {}
        for spec in models:
            try:
                pipeline = pipeline_for(spec.architecture, self._pipelines)
            except HermeticError as error:
                found[spec.name] = error.message
                continue
            found[spec.name] = _outlined(pipeline, spec, device)
            self._built[spec.name] = spec, pipeline
        return found

    @property
    def class_names(self) -> list[str]:
        """The diffusers classes of the models here, as their catalog entries declare them."""
        return sorted({spec.pipeline for spec, _ in self._built.values() if spec.pipeline})

    def take(self, spec: ModelSpec) -> Pipeline:
        """The model's pipeline, outlined where the template knew exactly this entry.

        Raises ModelInvalid for an architecture that nobody serves.
        """
        built = self._built.get(spec.name)
        if built is not None and built[0] == spec:
            return built[1]
        return pipeline_for(spec.architecture, self._pipelines)


def _outlined(pipeline: Pipeline, spec: ModelSpec, device: str) -> str:
    """The pipeline's own answer, or what broke in it: one broken folder must not cost all models
    their template."""
    try:
        return pipeline.outline(spec, device)
    except Exception as error:
        log.exception("The outline of %s failed.", spec.name)
        return f"its outline failed: {error!r}"
