"""What client, daemon and worker say to each other, and nothing of what they do.

The only package that all three import. It stands on the standard library, msgpack and msgspec.
"""

PROTOCOL = 1
"""The protocol's version. It grows only when an older peer could no longer be understood."""

__all__ = ["PROTOCOL"]
