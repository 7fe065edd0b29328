"""What the daemon itself costs per job: a job that does nothing, from submit to result.

Jobs are held in memory as yet, so `submit_to_result_ms` is of jobs that are not durable.
"""

from __future__ import annotations

import time

from _report import arguments, tell
from hermetic import Client
from hermetic.cli.bench.figures import Samples
from hermetic.cli.own_daemon import own_daemon

SIDES = {"192_bytes": 8, "3_megabytes": 1024}
"""Width and height of the one image that comes back."""


def measure(client: Client, samples: Samples, rounds: int) -> None:
    """Sizes interleaved; the first job, which starts the worker, is not counted."""
    client.generate("warm", model="echo")
    for _ in range(rounds):
        for name, side in SIDES.items():
            began = time.perf_counter()
            client.generate("a", model="echo", steps=1, width=side, height=side)
            elapsed = (time.perf_counter() - began) * 1000
            samples.add("submit_to_result_ms" + f"/{name}", "ms", elapsed)


def main() -> None:
    options = arguments(__doc__ or "", rounds=200).parse_args()
    samples = Samples()
    with own_daemon(device=options.device) as daemon:
        measure(daemon.client, samples, options.rounds)
    tell("overhead", options.device, samples, {}, options.json)


if __name__ == "__main__":
    main()
