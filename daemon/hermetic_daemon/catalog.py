"""The models by name: embedded ones, configured ones, and `echo`, which needs no files.

Read once at start, from JSON files alone. A model with a problem stays listed, with its problem.
"""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from hermetic_wire.errors import ModelInvalid, UnknownModel
from hermetic_wire.generation import Parameter
from hermetic_wire.messages import ModelRow
from hermetic_wire.worker import ModelSpec

from . import folder
from .architectures import ARCHITECTURES, Architecture
from .config import ModelSection

__all__ = ["Catalog", "Model"]

Source: TypeAlias = Literal["embedded", "configured", "built-in"]


@dataclass(frozen=True)
class Model:
    """A model that can be used."""

    spec: ModelSpec
    architecture: Architecture
    defaults: dict[str, Parameter]
    size_bytes: int
    """Of its weights' files."""


class Catalog:
    """Models by name. `rows` describes all, also those that cannot be used."""

    def __init__(self, configured: dict[str, ModelSection]) -> None:
        self.rows: dict[str, ModelRow] = {}
        self._models: dict[str, Model] = {}
        self._configured = configured
        self._add("echo", ModelSection(architecture="echo"), "built-in")
        for path in _embedded():
            self._add(path.name, ModelSection(path=path), "embedded")
        for name, section in configured.items():
            self._add(name, section, "configured")

    def find(self, name: str) -> Model:
        """The model. Raises UnknownModel, or ModelInvalid where it cannot be used."""
        if name in self._models:
            return self._models[name]
        if name in self.rows:
            raise ModelInvalid(f"Model {name!r} cannot be used: {self.rows[name].problem}")
        close = difflib.get_close_matches(name, self.rows, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(self.rows))}."
        raise UnknownModel(f"No model is called {name!r}. {hint}")

    def spec(self, name: str) -> ModelSpec | None:
        """All that a worker would be told; None for a model that cannot be used."""
        model = self._models.get(name)
        return model.spec if model else None

    def section(self, name: str) -> ModelSection:
        """What the configuration says of the model; all defaults where it says nothing."""
        return self._configured.get(name) or ModelSection()

    def to_preload(self) -> list[str]:
        """The models to be loaded when the daemon starts."""
        return [
            name
            for name, section in self._configured.items()
            if (section.preload or section.pin) and name in self._models
        ]

    def with_folders(self) -> tuple[ModelSpec, ...]:
        """Those that consist of files, in the order of their names."""
        models = (self._models[name].spec for name in sorted(self._models))
        return tuple(spec for spec in models if spec.path is not None)

    def describe(self, name: str | None) -> tuple[ModelRow, ...]:
        """The row of one model, or all by name. Raises UnknownModel."""
        if name is None:
            return tuple(self.rows[each] for each in sorted(self.rows))
        if name not in self.rows:
            self.find(name)
        return (self.rows[name],)

    def _add(self, name: str, section: ModelSection, source: Source) -> None:
        self._models.pop(name, None)
        try:
            self._models[name], self.rows[name] = _describe(name, section, source)
        except ModelInvalid as error:
            self.rows[name] = ModelRow(
                name=name,
                architecture="unknown",
                source=source,
                path=str(section.path) if section.path else None,
                problem=error.message,
            )


def _describe(name: str, section: ModelSection, source: Source) -> tuple[Model, ModelRow]:
    if section.path is None:
        if section.architecture is None:
            raise ModelInvalid(f"[models.{name}] has no path; give it that of a diffusers folder.")
        found = None
        architecture = ARCHITECTURES[section.architecture]
    else:
        found = folder.read(section.path)
        architecture = found.architecture
    defaults = architecture.defaults | (found.defaults if found else {}) | section.defaults
    spec = ModelSpec(
        name=name,
        architecture=architecture.name,
        path=str(section.path) if section.path else None,
        pipeline=architecture.pipeline,
        dtype=section.dtype,
        options=section.options,
    )
    row = ModelRow(
        name=name,
        architecture=architecture.name,
        source=source,
        path=spec.path,
        pipeline=architecture.pipeline,
        size_bytes=found.size_bytes if found else 0,
        defaults=defaults,
        extra={key: kind.__name__ for key, kind in architecture.extra.items()},
        components=found.components if found else {},
        widths=found.widths if found else {},
    )
    return Model(spec, architecture, defaults, row.size_bytes), row


def _embedded() -> list[Path]:
    """The folders that ship inside the worker's package, found without importing it."""
    package = importlib.util.find_spec("hermetic_worker")
    if package is None or not package.submodule_search_locations:
        return []
    models = Path(package.submodule_search_locations[0]) / "demo" / "models"
    return sorted(file.parent for file in models.glob("*/model_index.json"))
