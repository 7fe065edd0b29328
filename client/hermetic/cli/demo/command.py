"""`demo`: the story in one command, for somebody who has never heard of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermetic.cli.installed import missing
from hermetic.cli.output import duration, print_table, size, write_json
from hermetic.cli.stages import of_load, of_start, start_method
from hermetic.cli.verb import json_option, verb
from hermetic_wire.errors import InvalidConfiguration, ModelInvalid

if TYPE_CHECKING:
    from hermetic import Client

    from .leak import Direction
    from .proofs import Check
    from .rounds import Round

__all__ = ["demo"]

_SD15, _SDXL = "demo-sd15", "demo-sdxl"
_ROUNDS = (_SD15, _SDXL, _SD15, _SDXL)
_PROMPTS = (
    "a red circle on a white background",
    "a blue star on a white background",
    "an orange ring on a white background",
    "a purple heart on a yellow background",
    "a brown triangle on a pink background",
)
_SEEDS = (7, 9, 7, 9, 8)
_THREADS = 1
"""For images this small a second thread brings nothing, and waits dearly on a busy machine."""
_WIDTH = 92
_COLUMNS = (
    *("ROUND", "MODEL", "PROCESS", "EPOCH"),
    *("SWITCH", "START", "LOAD", "PER IMAGE", "PEAK"),
)

_THE_BUG = """\
Most apps keep every model in one process. Here is such an app: it has one pipeline at a time and,
to save work, a cache of prompt embeddings whose key is the prompt's text alone. The pipeline is
dropped at a switch, the cache is not. One prompt, first through one model, then through the other:
"""
_THE_REMEDY = """\
Hermetic gives each model a process of its own and kills it at every switch. What a dead process
knew cannot reach the next model; no clear_cache() has to be remembered. The same two models, the
same prompts and seeds, through a daemon of this demo's own:
"""


@verb("hermetic demo", "hermetic demo --out /tmp/pictures --device cuda", "hermetic demo --json")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("hermetic-demo"),
    show_default=True,
    metavar="DIR",
    help="Where the pictures go.",
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N. [default: $HERMETIC_DEVICE]")
@click.option("--keep", is_flag=True, help="Keep the demo's own daemon's directory with its log.")
@json_option
@click.pass_context
def demo(ctx: click.Context, out: Path, device: str | None, keep: bool, as_json: bool) -> None:
    """Show the bug, then the same through Hermetic.

    Reproduces the leak between two models in one process, then draws with both through a daemon
    of its own, with a switch before each round, and checks that nothing leaked. Needs no
    configuration and no running daemon. Exits 0 only if every check holds.
    """
    absent = missing("daemon") + missing("worker")
    if absent:
        raise InvalidConfiguration(
            f"The demo draws real images and needs {', '.join(absent)}, not installed here. "
            "Install it with: pip install 'hermetic[all]'"
        )
    out.mkdir(parents=True, exist_ok=True)
    told = _told(_Story(stderr=as_json), out, device, keep)
    if as_json:
        write_json(told)
    failed = [check["claim"] for check in told["checks"] if not check["holds"]]
    if failed:
        click.echo(f"hermetic: error: the demo failed: {'; '.join(failed)}", err=True)
        ctx.exit(1)


def _told(story: _Story, out: Path, device: str | None, keep: bool) -> dict[str, Any]:
    """Tell the story; what was seen, as JSON has it."""
    from hermetic.cli.own_daemon import own_daemon

    from .pictures import save_pictures
    from .proofs import checks, nothing_left
    from .rounds import play

    with own_daemon(device=device, threads=_THREADS, keep=keep) as daemon:
        folders = [_folder(daemon.client, name) for name in (_SD15, _SDXL)]
        leak = _tell_leak(story, folders)
        story.chapter("2  The same through Hermetic", _THE_REMEDY)
        rounds: list[Round] = []
        for one in play(daemon.client, _ROUNDS, _PROMPTS, _SEEDS, story.progress):
            story.say(_sentence(one))
            rounds.append(one)
        log = daemon.log.read_text(errors="replace")
    proofs = [*checks(leak, rounds, log), nothing_left(rounds)]
    story.chapter("3  What was checked")
    for check in proofs:
        story.check(check)
    story.chapter("4  What it cost")
    story.table(rounds)
    files = save_pictures(rounds, _PROMPTS, out)
    story.chapter("5  The pictures")
    story.say(f"{len(files) - 1} images and {files[-1]}")
    if keep:
        story.say(f"the daemon's log: {daemon.log}")
    return _record(leak, rounds, proofs, files)


def _folder(client: Client, name: str) -> str:
    row = client.model(name)
    if row.problem or row.path is None:
        raise ModelInvalid(f"The embedded model {name} cannot be used: {row.problem}")
    return row.path


def _tell_leak(story: _Story, folders: Sequence[str]) -> list[Direction]:
    from .leak import reproduce

    story.chapter("1  The bug, in one process", _THE_BUG)
    leak = reproduce(*folders)
    for one in leak:
        story.say(f"{one.first} -> {one.second}:")
        story.error(one.error or "no error")
        after = "draws again" if one.works_after_clear else "fails still"
        story.say(f"   With the cache cleared, as by a restart of the app, it {after}.")
    return leak


def _sentence(one: Round) -> str:
    worker = one.result.worker
    switch = one.result.timings.get("switch")
    switched = f"switched in {duration(switch)}, " if switch is not None else ""
    gone = {True: "former process gone, ", False: "FORMER PROCESS STILL THERE, ", None: ""}
    return (
        f"round {one.number}  {one.model:<10} process {worker.pid}, epoch {worker.epoch}: "
        f"{switched}{gone[one.former_gone]}{len(one.digests)} images"
    )


class _Story:
    """Says it for people: on stdout, or on stderr where stdout is for JSON."""

    def __init__(self, *, stderr: bool) -> None:
        from hermetic.cli.progress import progress

        self._say = partial(click.secho, err=stderr)
        self._stderr = stderr
        self.progress = progress

    def chapter(self, heading: str, words: str = "") -> None:
        self._say(f"\n{heading}", bold=True)
        if words:
            self._say(textwrap.indent(textwrap.fill(words, _WIDTH), "   ") + "\n")

    def say(self, words: str) -> None:
        self._say(f"   {words}")

    def error(self, words: str) -> None:
        self._say(textwrap.indent(words, "      "), fg="red")

    def check(self, check: Check) -> None:
        mark, colour = ("ok  ", "green") if check.holds else ("FAIL", "red")
        self._say(f"   {click.style(mark, fg=colour)} {check.claim}")
        self._say(f"        {check.seen}", dim=True)

    def table(self, rounds: Sequence[Round]) -> None:
        rows = [(str(one.number), one.model, *_figures(one)) for one in rounds]
        print_table(_COLUMNS, rows, right=set(_COLUMNS) - {"MODEL"}, stderr=self._stderr, indent=3)


def _figures(one: Round) -> tuple[str, ...]:
    timings, memory = one.result.timings, one.result.memory
    return (
        str(one.result.worker.pid),
        str(one.result.worker.epoch),
        duration(timings.get("switch")),
        f"{start_method(timings) or ''} {duration(of_start(timings))}".lstrip(),
        duration(of_load(timings)),
        duration(one.seconds_per_image),
        size(memory.get("device_peak", memory.get("peak"))),
    )


def _record(
    leak: Sequence[Direction],
    rounds: Sequence[Round],
    proofs: Sequence[Check],
    files: Sequence[Path],
) -> dict[str, Any]:
    return {
        "ok": all(check.holds for check in proofs),
        "leak": leak,
        "rounds": [
            {
                "round": one.number,
                "model": one.model,
                "worker": one.result.worker,
                "former_gone": one.former_gone,
                "seconds_per_image": one.seconds_per_image,
                "timings": one.result.timings,
                "memory": one.result.memory,
                "seeds": one.result.seeds,
                "sha256": one.digests,
            }
            for one in rounds
        ],
        "checks": [
            {"claim": check.claim, "holds": check.holds, "seen": check.seen} for check in proofs
        ],
        "files": [str(file) for file in files],
        "contact_sheet": str(files[-1]),
    }
