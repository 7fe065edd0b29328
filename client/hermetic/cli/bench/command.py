"""`bench`: what it measures, on what, as tables or as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from hermetic.cli.completion import complete_model
from hermetic.cli.output import write_json
from hermetic.cli.parameters import read_size
from hermetic.cli.session import Session
from hermetic.cli.verb import json_option, verb
from hermetic_wire import paths

from .figures import Figure, Samples
from .machine import machine
from .measure import Plan, measure
from .tables import print_report

if TYPE_CHECKING:
    from hermetic import Client

__all__ = ["bench"]

_PROMPT = "a red circle on a white background"


def _read_batches(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """`1,2,4`."""
    words = value.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r} is no list of batch sizes; write it as 1,2,4.")
    return tuple(map(int, words))


@verb(
    "hermetic bench -m demo-sd15 -m demo-sdxl",
    "hermetic bench -m demo-sd15 --batch 1,2,4,8 --steps 20 --rounds 5 --json",
    "hermetic bench -m demo-sd15 -m demo-sdxl --own-daemon --device cuda",
)
@click.option(
    *("-m", "--model", "models"),
    metavar="MODEL",
    required=True,
    multiple=True,
    shell_complete=complete_model,
    help="A model to measure; repeat it for switches.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Denoising steps.")
@click.option(
    *("--size", "dimensions"), metavar="WxH", callback=read_size, help="Pixels, such as 512x768."
)
@click.option(
    *("--batch", "batches"),
    metavar="N,N...",
    default="1,2,4",
    show_default=True,
    callback=_read_batches,
    help="Batch sizes.",
)
@click.option(
    *("--rounds",),
    type=click.IntRange(min=1),
    metavar="N",
    default=3,
    show_default=True,
    help="Measured rounds, after a warm-up.",
)
@click.option("--prompt", metavar="TEXT", default=_PROMPT, help="What to draw.")
@click.option("--own-daemon", is_flag=True, help="Measure a daemon that nobody else uses.")
@click.option("--device", metavar="DEVICE", help="Of --own-daemon: cpu, cuda or cuda:N.")
@json_option
@click.pass_obj
def bench(
    session: Session, /, own_daemon: bool, device: str | None, as_json: bool, **plan: Any
) -> None:
    """Measure generation, loads and switches.

    Images and iterations per second for each batch size, split into text encoder, denoiser and
    VAE; load and switch time for every ordered pair of the models, in interleaved rounds; peak
    memory, and what is left when the models are unloaded. An iteration is one denoising step of
    one image. Other apps of the same daemon disturb the figures: see --own-daemon.
    """
    if device and not own_daemon:
        raise click.UsageError("--device is for --own-daemon; a daemon that runs has its device.")
    wanted = Plan(
        models=tuple(dict.fromkeys(plan["models"])),
        batches=plan["batches"],
        rounds=plan["rounds"],
        prompt=plan["prompt"],
        steps=plan["steps"],
        size=plan["dimensions"],
    )
    samples = Samples()
    with _daemon(session, own_daemon, device) as client:
        worker = measure(client, wanted, samples, lambda words: click.echo(words, err=True))
    figures = samples.figures()
    report = {
        "bench": "hermetic",
        "machine": machine(worker.device),
        "versions": _versions(worker.versions),
        "settings": asdict(wanted),
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "ratios": _ratios(wanted, figures),
    }
    if as_json:
        write_json(report)
    else:
        print_report(wanted, figures, report)


@contextmanager
def _daemon(session: Session, own: bool, device: str | None) -> Iterator[Client]:
    if not own:
        with session.client() as client:
            yield client
        return
    from hermetic.cli.own_daemon import own_daemon

    config = paths.config_file()
    with own_daemon(device=device, config=config if config.exists() else None) as daemon:
        yield daemon.client


def _versions(of_worker: Mapping[str, str]) -> dict[str, str]:
    mine = {"hermetic": metadata.version("hermetic"), "python": platform.python_version()}
    return {**mine, **of_worker}


def _ratios(plan: Plan, figures: Mapping[str, Figure]) -> dict[str, float]:
    """How throughput grows with the batch, and where the time of a batch goes."""
    pairs: dict[str, tuple[str, str]] = {}
    for model in plan.models:
        for batch in plan.batches:
            name, first = f"{model}:batch{batch}", f"{model}:batch{plan.batches[0]}"
            if batch != plan.batches[0]:
                over = f"{name}/batch{plan.batches[0]}"
                pairs[over] = f"{name}:images_per_s", f"{first}:images_per_s"
            for stage in ("text_encoder", "denoise", "decode"):
                pairs[f"{name}:{stage}/total"] = f"{name}:{stage}_s", f"{name}:total_s"
    return {
        ratio: figures[above].value / figures[below].value
        for ratio, (above, below) in pairs.items()
        if above in figures and below in figures and figures[below].value
    }
