"""`python bench/_http_server.py FD`: the echo pipeline behind HTTP, as one would serve a model.

JSON in, raw pixels out, each request computed in a thread. A job lives as long as its connection:
nothing is written down, so nothing of it can be asked for again.
"""

from __future__ import annotations

import socket
import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from _http import PATH, unfollowed
from hermetic_wire.generation import TextToImage
from hermetic_worker.pipelines.echo import Echo

_KEEP_ALIVE_S = 600
"""The bench has other work between two of its requests."""
_ECHO = Echo()


async def generate(request: Request) -> Response:
    """A task, complete as a worker gets it; its pixels."""
    task = msgspec.json.decode(await request.body(), type=TextToImage)
    result = await run_in_threadpool(_ECHO.run, task, unfollowed)
    pixels = b"".join(bytes(frame) for frame in result.frames)
    return Response(pixels, media_type="application/octet-stream")


def main() -> None:
    """Serve on a listening socket that was handed over."""
    application = Starlette(routes=[Route(PATH, generate, methods=["POST"])])
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_keep_alive=_KEEP_ALIVE_S
    )
    # Not by uvicorn's own `fd`, which takes it for a Unix socket: Nagle's algorithm would stay on,
    # and every answer wait 40 ms for an acknowledgement.
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
