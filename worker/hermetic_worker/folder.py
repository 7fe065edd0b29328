"""A model's folder in diffusers' layout, read before anything is loaded from it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hermetic_wire.errors import ModelInvalid

__all__ = ["Folder"]

_FP16 = re.compile(r"\.fp16(-\d+-of-\d+)?\.safetensors$")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}


@dataclass(frozen=True)
class Folder:
    """What `model_index.json` declares and which weights lie beside it."""

    path: Path
    class_name: str
    """The pipeline's class."""
    entries: dict[str, tuple[str, str]]
    """Library and class by component, without those that the folder leaves out on purpose."""

    @property
    def components(self) -> dict[str, str]:
        """The classes alone."""
        return {name: kind for name, (_, kind) in self.entries.items()}

    @staticmethod
    def stamp(name: str | None) -> str:
        """What changes when a file of the folder is written, replaced, added or removed.

        A digest of names, sizes, times of change and inodes; no content is read. Empty where
        there is no folder.
        """
        path = Path(name or "")
        if not name or not path.is_dir():
            return ""
        digest = hashlib.sha256()
        for folder in (path, *sorted(each for each in path.iterdir() if each.is_dir())):
            for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                if entry.is_file():
                    found = entry.stat()
                    facts = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
                    digest.update(f"{folder.name}/{entry.name} {facts}\n".encode())
        return digest.hexdigest()

    @classmethod
    def read(cls, path: str | None) -> Folder:
        """Raises ModelInvalid where this is no folder of a diffusers pipeline."""
        if path is None:
            raise ModelInvalid(
                "The model has no path; name a diffusers folder in its catalog entry."
            )
        file = Path(path) / "model_index.json"
        try:
            index = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelInvalid(
                f"{file} cannot be read ({error}); a model's path is a folder as "
                "`save_pretrained` of diffusers writes it."
            ) from error
        name = index.get("_class_name") if isinstance(index, dict) else None
        if not isinstance(name, str):
            raise ModelInvalid(f"{file} declares no _class_name, so what it holds is unknown.")
        return cls(Path(path), name, _entries(index))

    def require_class(self, wanted: str) -> None:
        """Raises ModelInvalid where the folder declares another pipeline than `wanted`."""
        if self.class_name != wanted:
            raise ModelInvalid(
                f"{self.path} was asked for as a {wanted}, but its model_index.json declares "
                f"{self.class_name}. Correct the model's architecture in the catalog."
            )

    def variant(self) -> str | None:
        """`fp16` where some component has its weights only so, else None.

        Raises ModelInvalid where a component has no folder, or has pickled weights alone:
        unpickling runs whatever code the file holds, so it is never done.
        """
        only_fp16 = False
        for name in self.components:
            only_fp16 = _only_fp16(self.path / name) or only_fp16
        return "fp16" if only_fp16 else None


def _entries(index: dict[str, object]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for name, entry in index.items():
        match entry:
            case [str(library), str(class_name)]:
                found[name] = library, class_name
            case _:
                pass  # [null, null]: left out; anything else: a setting of the pipeline
    return found


def _only_fp16(component: Path) -> bool:
    if not component.is_dir():
        raise ModelInvalid(
            f"model_index.json lists {component.name}, but {component} is not there. Copy the "
            "whole folder."
        )
    files = [file for file in component.iterdir() if file.is_file()]
    weights = [file.name for file in files if file.suffix == ".safetensors"]
    pickles = sorted(file.name for file in files if file.suffix in _PICKLES)
    if pickles and not weights:
        raise ModelInvalid(
            f"{component} has only pickled weights ({', '.join(pickles)}); loading them would "
            "run their code. Convert them with `save_pretrained(..., safe_serialization=True)`."
        )
    return bool(weights) and all(_FP16.search(name) for name in weights)
