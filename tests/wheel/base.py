"""Run by CI in an environment that holds nothing but the wheel: what a bare client install is."""

from __future__ import annotations

import importlib.metadata
import sys

import hermetic

EXPECTED = {"hermetic", "pyzmq", "msgpack", "msgspec"}
TOOLS = {"pip", "setuptools", "wheel"}

installed = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()} - TOOLS
if installed != EXPECTED:
    sys.exit(f"the base install is {sorted(installed)}, not {sorted(EXPECTED)}")
try:
    hermetic.Client("/nonexistent/hermetic.sock").status()
except hermetic.DaemonUnreachable as error:
    sys.stdout.write(f"a bare client says: {error.message}\n")
else:
    sys.exit("a daemon that does not exist answered")
