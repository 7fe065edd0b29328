"""A pipeline without a computation: built on meta, its weights bound to the files' own pages.

Built once, in the template; every worker forked from it has the pipeline from its first
instruction on. What this way cannot reproduce to the bit is refused with a reason, and loaded by
`from_pretrained`, which is the reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoint_keys, libraries, weights
from .folder import Folder

if TYPE_CHECKING:
    from .device import Device
    from .staging import Ring

__all__ = ["Skeleton", "Unbuildable", "build"]


class Unbuildable(Exception):
    """Why this pipeline has to go through `from_pretrained`, in words."""


@dataclass
class Slot:
    """One tensor of a module, by the module that owns it."""

    owner: Any
    name: str
    is_parameter: bool
    meta: Any
    """What it held before the weights came."""

    def fill(self, tensor: Any) -> None:
        """Put the tensor itself in, not its values.

        `requires_grad` stays as the class has it: under `no_grad` too it decides which of two
        fp16 kernels a linear layer takes on a CPU, and they round differently.
        """
        import torch

        if self.is_parameter:
            parameter = torch.nn.Parameter(tensor, self.meta.requires_grad)
            self.owner.register_parameter(self.name, parameter)
        else:
            self.owner.register_buffer(self.name, tensor)

    @property
    def tensor(self) -> Any:
        """What it holds now."""
        return getattr(self.owner, self.name)


@dataclass
class Skeleton:
    """A diffusers pipeline whose modules own no memory."""

    pipe: Any
    dtype: str
    stamp: str
    """Of the folder, before anything of it was read."""
    _files: dict[str, list[Path]]
    _slots: dict[str, dict[str, Slot]] = field(default_factory=dict)
    """By component and by the name that its files have for the tensor."""
    converts: bool = False
    """Whether the files hold anything in another dtype than is wanted."""

    @property
    def modules(self) -> list[str]:
        """The components that have weights, in the order in which a device wants them: those
        that compute first come first."""
        order = {"text": 0, "unet": 1, "tran": 1, "vae": 2}
        return sorted(self._slots, key=lambda name: (order.get(name[:4], 3), name))

    def slots(self) -> list[Slot]:
        """Every tensor that has come from a file, in the order of `modules`."""
        return [slot for name in self.modules for slot in self._slots[name].values()]

    def bind(self) -> None:
        """Map the files and give every module its tensors. Raises ModelInvalid."""
        import torch

        for name, slots in self._slots.items():
            tensors = weights.tensors_of(self._files[name])
            for key, slot in slots.items():
                slot.fill(tensors[key])
        self._tie()
        wanted = getattr(torch, self.dtype)
        self.converts = any(_differs(slot.tensor, wanted) for slot in self.slots())

    def release(self) -> None:
        """Give the maps back: the modules are as empty as they were built."""
        for slot in self.slots():
            slot.fill(slot.meta)
        self._tie()

    def read_ahead(self) -> None:
        """Have every byte of the weights in memory, so that no step waits for the disk."""
        weights.read_ahead(slot.tensor for slot in self.slots())

    def move(self, device: Device, ring: Ring | None) -> None:
        """Copy to the device what needs no conversion, through the ring, into one block.

        A new ring is made where the process has none. What has another dtype in the files
        stays for `convert` and `pipe.to`.
        """
        import torch

        from .staging import Ring, stage

        wanted = getattr(torch, self.dtype)
        slots = [slot for slot in self.slots() if not _differs(slot.tensor, wanted)]
        sources = [slot.tensor.detach() for slot in slots]
        staged = stage(sources, device, ring or Ring.make(device))
        for slot, tensor in zip(slots, staged, strict=True):
            slot.fill(tensor)
        self._tie()

    def convert(self) -> None:
        """Hold in the wanted dtype what the files hold in another; this copies and computes."""
        import torch

        wanted = getattr(torch, self.dtype)
        for slot in self.slots():
            if _differs(slot.tensor, wanted):
                slot.fill(slot.tensor.detach().to(wanted))
        self._tie()

    def _tie(self) -> None:
        """Share again what a class shares: the files hold such a tensor once, so there is a slot
        for one of its names alone."""
        for name in self.modules:
            module = getattr(self.pipe, name)
            if getattr(module, "_tied_weights_keys", None):
                module.tie_weights()


def _differs(tensor: Any, wanted: Any) -> bool:
    """Whole numbers stay what they are."""
    return bool(tensor.is_floating_point() and tensor.dtype != wanted)


def build(path: Path, class_name: str, dtype: str) -> Skeleton:
    """The folder's pipeline with its weights bound, in this process, by one thread.

    `dtype` is `float32`, `float16` or `bfloat16`: what `convert` will hold the weights in. Raises
    Unbuildable, or ModelInvalid for a folder that nothing can be built from.
    """
    stamp = Folder.stamp(str(path))
    folder = Folder.read(str(path))
    folder.require_class(class_name)
    variant = folder.variant()
    modules: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, (library, kind_name) in folder.entries.items():
        kind = _class_of(library, kind_name)
        if _is_module(kind):
            modules[name] = _module(kind, path / name, dtype)
        else:
            others[name] = kind.from_pretrained(str(path / name), local_files_only=True)
    skeleton = Skeleton(
        pipe=_pipeline(class_name, path, modules | others),
        dtype=dtype,
        stamp=stamp,
        _files={
            name: weights.component_files(path / name, checkpoint_keys.stem(module), variant)
            for name, module in modules.items()
        },
    )
    for name, module in modules.items():
        skeleton._slots[name] = _wire_up(name, module, skeleton._files[name])
    skeleton.bind()
    for name, module in modules.items():
        _require_complete(name, module)
    return skeleton


def _pipeline(class_name: str, path: Path, components: dict[str, Any]) -> Any:
    """By diffusers' own loader, which finds all components made and loads none."""
    kind = libraries.pipeline_class(class_name)
    pipe = kind.from_pretrained(str(path), local_files_only=True, **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _class_of(library: str, name: str) -> Any:
    """What an entry of model_index.json names; never code that lies in the folder."""
    import diffusers

    if library in {"diffusers", "transformers"}:
        place: Any = importlib.import_module(library)
    else:
        place = getattr(diffusers.pipelines, library, None)
    found = getattr(place, name, None)
    if found is None:
        raise Unbuildable(f"{library}.{name} is no class of diffusers or transformers")
    return found


def _is_module(kind: Any) -> bool:
    import torch

    return isinstance(kind, type) and issubclass(kind, torch.nn.Module)


def _module(kind: Any, path: Path, dtype: str) -> Any:
    """The module with parameters on meta and its non-persistent buffers as they should be.

    Those buffers (position ids, say) are in no checkpoint. They are a handful of numbers, and
    they are made as the reference makes them: under the same default dtype, while only parameters
    are diverted to meta.
    """
    import accelerate
    import torch
    import transformers

    wanted = getattr(torch, dtype)
    _require_one_dtype(kind, dtype)
    with accelerate.init_empty_weights(include_buffers=False):
        if issubclass(kind, transformers.PreTrainedModel):
            configuration: Any = kind.config_class
            config = configuration.from_pretrained(str(path), local_files_only=True)
            _require_plain(kind, getattr(config, "quantization_config", None))
            module = kind._from_config(config, dtype=wanted)
            module.requires_grad_(True)  # as transformers loads also what the class has frozen
        else:
            settings = kind.load_config(str(path), local_files_only=True)
            _require_plain(kind, settings.get("quantization_config"))
            with _default_dtype(wanted):
                module = kind.from_config(settings)
    return module.eval()


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _require_one_dtype(kind: Any, dtype: str) -> None:
    """Classes that keep some layers in float32 are held in two dtypes by the reference."""
    kept = [
        *(getattr(kind, "_keep_in_fp32_modules", None) or ()),
        *(getattr(kind, "_keep_in_fp32_modules_strict", None) or ()),
    ]
    if kept and dtype != "float32":
        raise Unbuildable(f"{kind.__name__} keeps {', '.join(kept)} in float32")


def _require_plain(kind: Any, quantization: Any) -> None:
    if quantization is not None:
        raise Unbuildable(f"{kind.__name__} is quantised")


def _wire_up(component: str, module: Any, files: list[Path]) -> dict[str, Slot]:
    """Which of the files' tensors belongs where. Raises Unbuildable where one fits nowhere."""
    tensors = weights.tensors_of(files)
    places = _places(module)
    names = checkpoint_keys.renamed(module, tensors)
    found = {key: places[name] for key, name in names.items() if name in places}
    for key, slot in found.items():
        if slot.meta.shape != tensors[key].shape:
            raise Unbuildable(
                f"{component}.{names[key]} is {tuple(tensors[key].shape)} in the file and "
                f"{tuple(slot.meta.shape)} by the configuration"
            )
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    missing = places.keys() - {names[key] for key in found} - tied
    if missing:
        raise Unbuildable(f"no file of {component} has {min(missing)}")
    return found


def _places(module: Any) -> dict[str, Slot]:
    """Parameters and persistent buffers by their names in the module's state dict."""
    found: dict[str, Slot] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        is_parameter = any(name == each for each, _ in owner.named_parameters(recurse=False))
        found[key] = Slot(owner, name, is_parameter, value)
    return found


def _require_complete(name: str, module: Any) -> None:
    for tensor_name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise Unbuildable(f"{name}.{tensor_name} is in no file of the folder")
