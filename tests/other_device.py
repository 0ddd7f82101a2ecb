"""A second device on a machine that has none, as a GPU would be: tensors there do not mix with those in main memory.

A tensor on it wraps one in main memory, and so does every operation's result. What a GPU refuses, it refuses:
operations on tensors of both kinds, numpy, and random numbers of the CPU's generator. It has no kernels, streams or
memory of its own, so it shows nothing of these. After `install()` the host loads its models to it.
"""

import torch
import torch._dynamo  # before torch's functions are replaced
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "other"  # torch's name for the device
FREE, TOTAL = 80 << 30, 100 << 30  # bytes, as the host is told
aten = torch.ops.aten
MIXING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Operations that take tensors in main memory beside those elsewhere; as indices alone."""

_kept = []  # torch's registrations end with the objects that made them


class Elsewhere(torch.Tensor):
    """A tensor on the device; `here` is the one in main memory that it wraps."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=device(),
        )  # fmt: skip
        tensor.here = here
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})

    def __repr__(self):
        return f"{self.here!r} elsewhere"

    def __getitem__(self, index):
        return torch.Tensor.__getitem__(self, as_tensors(index))

    def __setitem__(self, index, value):
        value = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=self.dtype)
        torch.Tensor.__setitem__(self, as_tensors(index), value)

    def new_tensor(self, data, dtype=None, device=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def data_ptr(self):
        return self.here.data_ptr()

    def untyped_storage(self):
        return self.here.untyped_storage()

    def tolist(self):
        return self.here.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {self.device} tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy


def device() -> torch.device:
    return torch.device(NAME, 0)


def as_tensors(index):
    """An index whose lists are tensors: torch would make them on the device by a way that ends nowhere here."""
    if isinstance(index, tuple):
        return tuple(map(as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def run(function, args, kwargs):
    """The operation in main memory, its result on the device if an operand, or the wanted device, is."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
        result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    leaves = tree_leaves((args, kwargs))
    elsewhere = [it for it in leaves if isinstance(it, Elsewhere)]
    wanted = kwargs.get("device")
    away = bool(elsewhere) if wanted is None else torch.device(wanted).type == NAME
    check(function, args, leaves, elsewhere, away)
    if wanted is not None and away:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {name: it for name, it in kwargs.items() if name != "pin_memory"}
    args_here, kwargs_here = tree_map(lambda it: it.here if isinstance(it, Elsewhere) else it, (args, kwargs))
    result = function(*args_here, **kwargs_here)
    if function is aten.copy_.default:
        return args[0]
    wrappers = {id(it.here): it for it in elsewhere}

    def wrapped(it):
        if not isinstance(it, torch.Tensor):
            return it
        if id(it) in wrappers:
            return wrappers[id(it)]
        return Elsewhere(it) if away else it

    return tree_map(wrapped, result)


def check(function, args, leaves, elsewhere, away):
    """Raises what torch raises on a GPU."""
    here = [it for it in leaves if isinstance(it, torch.Tensor) and not isinstance(it, Elsewhere) and it.ndim]
    may_mix = function in MIXING or (function in INDEXING and isinstance(args[0], Elsewhere))
    if elsewhere and here and not may_mix:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {device()} and cpu! "
            f"({function})"
        )
    if away and any(isinstance(it, torch.Generator) and it.device.type == "cpu" for it in leaves):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' ({function})")


def made_here_first(function):
    """A function that makes a tensor, which makes it in main memory and then moves it."""

    def made(*args, device=None, requires_grad=False, **kwargs):
        if device is None or torch.device(device).type != NAME:
            return function(*args, device=device, requires_grad=requires_grad, **kwargs)
        return function(*args, **kwargs).to(device).requires_grad_(requires_grad)

    return made


def install():
    """Register the device with torch, and make the host load its models to it; the host has been started."""
    import comfy.model_management as management

    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda function, *args, **kwargs: run(function, args, kwargs), "PrivateUse1")
    _kept.append(library)
    torch.tensor = made_here_first(torch.tensor)
    compatible = torch._has_compatible_shallow_copy_type
    torch._has_compatible_shallow_copy_type = lambda input, from_: (
        not isinstance(input, Elsewhere) and not isinstance(from_, Elsewhere) and compatible(input, from_)
    )
    management.get_torch_device = device
    management.intermediate_device = lambda: torch.device("cpu")
    management.get_total_memory = lambda dev=None, torch_total_too=False: (TOTAL, TOTAL) if torch_total_too else TOTAL
    management.get_free_memory = lambda dev=None, torch_free_too=False: (FREE, FREE) if torch_free_too else FREE
    management.get_autocast_device = lambda dev: "cpu"
