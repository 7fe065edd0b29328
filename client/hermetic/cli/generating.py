"""`generate`: prompts in, PNG files out."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from hermetic_wire.errors import UnknownModel
from hermetic_wire.generation import Parameter

from .completion import complete_model
from .output import duration, size, to_json, write_json
from .parameters import read_settings, read_size
from .session import Session
from .verb import json_option, verb
from .waiting import finish

if TYPE_CHECKING:
    from hermetic import Client, Result

__all__ = ["file_names", "generate"]

_STDOUT = "-"
_SOURCES = ("configured", "embedded", "built-in")
"""Where a model comes from, the likeliest to be meant first."""


@verb(
    'hermetic generate "a red circle on a white background"',
    'hermetic generate "a blue star" -m demo-sdxl -n 4 --seed 7 -o star.png',
    'hermetic generate "a heart" "a ring" --steps 12 --size 64x64 --json',
    'hermetic generate "a green cross" -o - > cross.png',
)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_model,
    help="[default: the loaded model, or the first usable]",
)
@click.option(
    "-o", "--output", metavar="FILE", help="PNG to write; - is stdout. [default: hermetic-JOB.png]"
)
@click.option(
    "--negative", "negative_prompt", metavar="TEXT", help="What the images must not show."
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Denoising steps.")
@click.option(
    "--size", "dimensions", metavar="WxH", callback=read_size, help="Pixels, such as 512x768."
)
@click.option(
    "--guidance", type=float, metavar="X", help="Classifier-free guidance; 1 or less is none."
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), metavar="N", help="Of the first image.")
@click.option("-n", type=click.IntRange(min=1), default=1, metavar="N", help="Images per prompt.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    callback=read_settings,
    help="One of the model's own parameters; may be repeated.",
)
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@json_option
@click.pass_obj
def generate(
    session: Session,
    /,
    prompts: tuple[str, ...],
    model: str | None,
    output: str | None,
    dimensions: tuple[int, int] | None,
    n: int,
    settings: dict[str, Parameter],
    quiet: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Draw images from prompts.

    All prompts are one job and one batch. Files are named on stdout, progress goes to stderr.
    Ctrl-C cancels the job; a second one leaves it to the daemon. What a model takes besides
    these options, `hermetic show MODEL` tells; give it with --set.
    """
    _check_output(output, len(prompts) * n, as_json)
    width, height = dimensions or (None, None)
    with session.client() as client:
        chosen = model or _choose(client, quiet)
        given = {"width": width, "height": height, **sampling, **settings}
        job = client.submit(prompts, model=chosen, n=n, **given)
        result = finish(job, chosen, quiet=quiet)
    files = _save(result, output)
    if as_json:
        write_json(_record(result, files))
    elif output != _STDOUT:
        click.echo("\n".join(map(str, files)))
    if not quiet:
        click.echo(_summary(result), err=True)


def _check_output(output: str | None, images: int, as_json: bool) -> None:
    """Refuse before a single step what could not be written after the last."""
    if output is None:
        return
    if output == _STDOUT:
        if as_json or images != 1:
            raise click.UsageError("-o - writes one PNG to stdout: one image only, and no --json.")
        return
    file = Path(output)
    if file.suffix.lower() not in (".png", ""):
        raise click.UsageError(f"{file.name} would not be a PNG; name it {file.stem}.png.")
    if file.exists() and not file.is_file():
        # A PNG takes the place of what has its name; a device must not lose its own.
        raise click.UsageError(f"{file} is no regular file; - writes to stdout.")
    if not file.parent.is_dir():
        raise click.UsageError(f"There is no directory {file.parent} to write {file.name} into.")


def _choose(client: Client, quiet: bool) -> str:
    """The model whose worker lives, for it answers soonest; else the first that is usable."""
    loaded = [row.model for row in client.workers() if row.state in ("ready", "running")]
    usable = [row for row in client.models() if row.problem is None]
    if not loaded and not usable:
        raise UnknownModel("The catalog has no usable model; `hermetic models` tells why.")
    usable.sort(key=lambda row: _SOURCES.index(row.source))
    chosen = loaded[0] if loaded else usable[0].name
    if not quiet:
        why = "it is loaded" if loaded else "the first usable one"
        click.echo(f"model: {chosen} ({why}; choose with -m)", err=True)
    return chosen


def _save(result: Result, output: str | None) -> list[Path]:
    """Write every image; the files, in order. None where the one PNG went to stdout."""
    from hermetic.png import save_png

    if output == _STDOUT:
        with TemporaryDirectory() as directory:
            file = Path(directory, "image.png")
            save_png(result.images[0], file, result=result)
            sys.stdout.buffer.write(file.read_bytes())
        return []
    files = file_names(output, result.job_id, len(result.images))
    for index, (image, file) in enumerate(zip(result.images, files, strict=True)):
        save_png(image, file, result=result, index=index)
    return files


def file_names(output: str | None, job_id: str, images: int) -> list[Path]:
    """The name asked for, or one from the job's id; numbered from 1 where there are several."""
    base = Path(output or f"hermetic-{job_id[:8]}.png")
    if images == 1:
        return [base]
    digits = len(str(images))
    return [base.with_name(f"{base.stem}-{i:0{digits}}{base.suffix}") for i in range(1, images + 1)]


def _record(result: Result, files: list[Path]) -> dict[str, Any]:
    return {
        "job_id": result.job_id,
        "files": [str(file) for file in files],
        "seeds": list(result.seeds),
        "task": to_json(result.task),
        "worker": to_json(result.worker),
        "timings": result.timings,
        "memory": result.memory,
    }


def _summary(result: Result) -> str:
    images = len(result.images)
    shown = [
        f"{name.replace('_', ' ')} {duration(result.timings[name])}"
        for name in ("queued", "switch", "text_encoder", "denoise", "decode", "total")
        if name in result.timings
    ]
    peak = result.memory.get("device_peak", result.memory.get("peak"))
    return (
        f"{images} image{'s' * (images != 1)} by {result.worker.model} "
        f"(process {result.worker.pid}, epoch {result.worker.epoch}, {result.worker.device}): "
        f"{', '.join(shown) or 'no timings'}; peak {size(peak)}"
    )
