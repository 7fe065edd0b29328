"""The bug that Hermetic exists for, in one process: `python -m hermetic_worker.leak SD15 SDXL`.

An app keeps one pipeline at a time and, to save the text encoder's work, a cache of prompt
embeddings. The cache is global and its key is the prompt's text alone. After a switch it hands
the former model's embeddings to the new one, until somebody clears it or restarts the app.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from . import libraries

__all__ = ["PROMPT_CACHE", "Direction", "InProcessApp", "PromptCache", "main", "reproduce"]

PROMPT = "a red circle on a white background"
Embeddings: TypeAlias = dict[str, Any]
"""Arguments of a pipeline's call: `prompt_embeds`, and for SDXL the pooled ones too."""


class PromptCache:
    """Embeddings by prompt. What is missing from the key is the model that made them."""

    def __init__(self) -> None:
        self._entries: dict[str, Embeddings] = {}

    def get(self, prompt: str) -> Embeddings | None:
        """What was computed for this text, by whichever model."""
        return self._entries.get(prompt)

    def put(self, prompt: str, embeddings: Embeddings) -> None:
        """Keep it for the next image of the same prompt."""
        self._entries[prompt] = embeddings

    def clear(self) -> None:
        """What a user does by restarting the app."""
        self._entries.clear()


PROMPT_CACHE = PromptCache()
"""Global to the process, as in the apps it was found in: it outlives every pipeline."""


class InProcessApp:
    """An app with one pipeline at a time, switched by dropping one and loading the next."""

    def __init__(self) -> None:
        self._pipe: Any = None

    def switch(self, folder: Path) -> None:
        """Drop the present pipeline as thoroughly as a process can, and load another."""
        import diffusers
        import torch

        self._pipe = None
        gc.collect()
        # Named, because the two libraries have defaults of their own for what is stored in fp16.
        self._pipe = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        self._pipe.set_progress_bar_config(disable=True)

    def generate(self, prompt: str) -> Any:
        """One small image after one step. Raises whatever the pipeline raises."""
        import torch

        embeddings = PROMPT_CACHE.get(prompt)
        if embeddings is None:
            embeddings = self._encode(prompt)
            PROMPT_CACHE.put(prompt, embeddings)
        accepted = inspect.signature(self._pipe.__call__).parameters
        return self._pipe(
            **{name: value for name, value in embeddings.items() if name in accepted},
            num_inference_steps=1,
            guidance_scale=7.5,
            width=64,
            height=64,
            generator=torch.Generator().manual_seed(0),
        ).images[0]

    def _encode(self, prompt: str) -> Embeddings:
        import torch

        with torch.no_grad():
            found = self._pipe.encode_prompt(
                prompt,
                device=self._pipe.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
            )
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        return dict(zip(names, found, strict=False))  # SD1.5 has no pooled ones


@dataclass(frozen=True)
class Direction:
    """What one switch did to one prompt."""

    first: str
    second: str
    error: str | None
    """What the second model raised, word for word; None where it drew an image."""
    works_after_clear: bool
    """Whether the same prompt drew an image once the cache was cleared."""


def reproduce(sd15: Path, sdxl: Path, prompt: str = PROMPT) -> tuple[Direction, Direction]:
    """Both directions, SDXL to SD1.5 first. The cache is empty before and after."""
    libraries.bring_in()
    return (
        _switched(("sdxl", sdxl), ("sd15", sd15), prompt),
        _switched(("sd15", sd15), ("sdxl", sdxl), prompt),
    )


def _switched(first: tuple[str, Path], second: tuple[str, Path], prompt: str) -> Direction:
    app = InProcessApp()
    PROMPT_CACHE.clear()
    try:
        app.switch(first[1])
        app.generate(prompt)
        app.switch(second[1])
        error = _error_of(app, prompt)
        PROMPT_CACHE.clear()
        works = _error_of(app, prompt) is None
    finally:
        PROMPT_CACHE.clear()
    return Direction(first=first[0], second=second[0], error=error, works_after_clear=works)


def _error_of(app: InProcessApp, prompt: str) -> str | None:
    try:
        app.generate(prompt)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """0 where both directions fail and work again once the cache is cleared, else 1."""
    parser = argparse.ArgumentParser(prog="python -m hermetic_worker.leak", description=__doc__)
    parser.add_argument("sd15", type=Path, help="folder of a StableDiffusionPipeline")
    parser.add_argument("sdxl", type=Path, help="folder of a StableDiffusionXLPipeline")
    parser.add_argument("--json", action="store_true", help="one JSON array of both directions")
    arguments = parser.parse_args(argv)
    directions = reproduce(arguments.sd15, arguments.sdxl)
    if arguments.json:
        report = json.dumps([asdict(one) for one in directions], indent=2)
    else:
        report = "\n".join(_told(one) for one in directions)
    sys.stdout.write(report + "\n")
    return 0 if all(one.error and one.works_after_clear for one in directions) else 1


def _told(direction: Direction) -> str:
    then = "works" if direction.works_after_clear else "still fails"
    return (
        f"{direction.first} -> {direction.second}: {direction.error or 'no error'}\n"
        f"  with the prompt cache cleared: {then}"
    )


if __name__ == "__main__":
    sys.exit(main())
