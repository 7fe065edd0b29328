"""The supervisor daemon: sockets, queue and processes. Never imports torch or numpy."""

__all__: list[str] = []
