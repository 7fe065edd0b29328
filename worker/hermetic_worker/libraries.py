"""torch, diffusers and transformers, imported once: offline, quiet, without touching a device."""

from __future__ import annotations

import os
from typing import Any

from hermetic_wire.errors import ModelInvalid

__all__ = ["ENVIRONMENT", "bring_in", "pipeline_class", "versions"]

ENVIRONMENT = {
    # `local_files_only=True` alone still tries the network (facts of diffusers 0.42).
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenBLAS starts its threads while numpy is imported, and a process with threads cannot be
    # forked from.
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # diffusers asks for the device while it is imported; without this the answer comes from
    # cuInit, after which no forked child can use CUDA.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # NVML, which the daemon asks, counts GPUs by their place on the bus, CUDA by their speed.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
"""Read by the libraries while they are imported, so it must stand before."""


def bring_in() -> None:
    """Import all that a diffusers pipeline needs. Never computes, never opens a device."""
    os.environ.update(ENVIRONMENT)
    import diffusers
    import transformers

    # The environment is read once, so it is too late for it where a host program has imported
    # these already. What is silenced: the bars, and four warnings that torchvision is not there.
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def pipeline_class(name: str) -> Any:
    """The class of that name in diffusers, imported with all that it needs (diffusers is lazy).

    Raises ModelInvalid where this version has no such class.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    if found is None:
        raise ModelInvalid(
            f"The folder declares a {name}, which diffusers {diffusers.__version__} does not "
            "have. Install a newer one."
        )
    return found


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    import diffusers
    import torch
    import transformers

    return {
        "torch": str(torch.__version__),
        "diffusers": str(diffusers.__version__),
        "transformers": str(transformers.__version__),
    }
