"""`generate`: prompts in, PNG files out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hermetic_wire.errors import UnknownModel
from hermetic_wire.generation import Parameter

from .completion import complete_model
from .output import write_json
from .parameters import PRIORITIES, read_duration, read_settings, read_size
from .saving import (
    PREVIEW_SECONDS,
    check_output,
    output_option,
    preview_option,
    preview_saver,
    report,
)
from .session import Session
from .verb import json_option, verb
from .waiting import finish

if TYPE_CHECKING:
    from hermetic import Client

__all__ = ["generate"]

_SOURCES = ("configured", "embedded", "built-in")
"""Where a model comes from, the likeliest to be meant first."""


@verb(
    'hermetic generate "a red circle on a white background"',
    'hermetic generate "a blue star" -m demo-sdxl -n 4 --seed 7 -o star.png',
    'hermetic generate "a heart" "a ring" --steps 12 --size 64x64 --json',
    'hermetic generate "a green cross" -o - > cross.png',
    'hermetic generate "a moon" --priority low --expires-in 1h --detach',
    'hermetic generate "a moon" --preview-file moon-so-far.png',
)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_model,
    help="[default: the loaded model, or the first usable]",
)
@output_option
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
@click.option(
    "--priority", type=click.Choice(PRIORITIES), default="normal", help="Its class of jobs."
)
@click.option(
    "--expires-in",
    metavar="TIME",
    callback=read_duration,
    help="Fail unless it has begun by then, such as 90s or 5m.",
)
@click.option(
    "--keep-alive",
    metavar="TIME",
    callback=read_duration,
    help="How long the idle model stays loaded; -1 is for ever.",
)
@click.option("--detach", is_flag=True, help="Print the job's id and leave it to the daemon.")
@preview_option
@click.option(
    "--preview-seconds",
    metavar="TIME",
    callback=read_duration,
    help="Between two previews. [default: 1]",
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
    detach: bool,
    preview_file: str | None,
    preview_seconds: float | None,
    quiet: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Draw images from prompts.

    All prompts are one job and one batch. Files are named on stdout, progress goes to stderr.
    Ctrl-C cancels the job; a second one leaves at once. With --detach nobody waits: `hermetic
    follow JOB` does later. What a model takes besides these options, `hermetic show MODEL` tells;
    give it with --set.
    """
    check_output(output, len(prompts) * n, as_json)
    _check_waiting(detach, output, preview_file, preview_seconds)
    look = preview_saver(preview_file)
    if look is not None:
        preview_seconds = preview_seconds or PREVIEW_SECONDS
    width, height = dimensions or (None, None)
    with session.client() as client:
        chosen = model or _choose(client, quiet)
        given = {"width": width, "height": height, **sampling, **settings}
        job = client.submit(prompts, model=chosen, n=n, preview_seconds=preview_seconds, **given)
        if detach:
            _tell_id(job.id, as_json)
            return
        result = finish(job, chosen, quiet=quiet, look=look)
    report(result, output, quiet=quiet, as_json=as_json)


def _check_waiting(
    detach: bool, output: str | None, preview_file: str | None, preview_seconds: float | None
) -> None:
    """Refuse what makes sense only for those who wait, or only for those who look."""
    if detach and (output is not None or preview_file is not None):
        raise click.UsageError(
            "--detach does not wait for images; write them later with: hermetic follow JOB -o FILE"
        )
    if preview_seconds is not None and preview_file is None:
        raise click.UsageError("--preview-seconds needs a --preview-file to write to.")


def _tell_id(job_id: str, as_json: bool) -> None:
    if as_json:
        write_json({"job_id": job_id})
    else:
        click.echo(job_id)


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
