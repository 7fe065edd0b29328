"""What the tensors of a checkpoint are called in today's classes.

Files in the wild are older than the libraries: CLIP's text model lost a prefix, the VAE's attention
was renamed. The libraries know; here they are asked, for names alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

__all__ = ["renamed", "stem"]


def stem(module: Any) -> str:
    """How the module's library calls its weights, without the ending."""
    return "model" if _is_of_transformers(module) else "diffusion_pytorch_model"


def renamed(module: Any, keys: Iterable[str]) -> dict[str, str]:
    """The name in the module's state dict of each key of its files.

    A key that needs more than a new name (that is split or merged, say) is left out.
    """
    if _is_of_transformers(module):
        return _by_transformers(module, keys)
    names = OrderedDict((key, key) for key in keys)
    module._fix_state_dict_keys_on_load(names)  # moves the old names under the new ones
    return {old: new for new, old in names.items()}


def _by_transformers(module: Any, keys: Iterable[str]) -> dict[str, str]:
    """As `from_pretrained` of transformers 5 does it, in its own order."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:  # another version: whatever is not called so already is missing
        return {key: key for key in keys}
    present = module.state_dict()
    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = module.base_model_prefix
    found: dict[str, str] = {}
    for key in keys:
        name, conversion = rename_source_key(key, renamings, converters, prefix, present)
        if name not in present and key in present:
            name, conversion = rename_source_key(key, [], [], prefix, present)
        if conversion is None:
            found[key] = name
    return found


def _is_of_transformers(module: Any) -> bool:
    import transformers

    return isinstance(module, transformers.PreTrainedModel)
