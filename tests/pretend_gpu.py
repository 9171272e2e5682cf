"""A pretended GPU: tensors that say cuda:7, compute on the CPU, and refuse to meet a tensor of the CPU.

What a real GPU would refuse fails here too, with the same numbers where nothing does. A tensor on it is a wrapper
around one of the CPU. Kernels that only one kind of device has, autocast and inference mode are not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU, CPU = torch.device("cuda", 7), torch.device("cpu")
"""Seven, so that what is kept for a device is not taken for a real one's."""


class OnGpu(torch.Tensor):
    """A tensor on the pretended GPU; `elem` holds its numbers."""

    elem: torch.Tensor
    device = property(lambda _: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    is_cpu = property(lambda _: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> OnGpu:
        layout = {"strides": elem.stride(), "storage_offset": elem.storage_offset(), "dtype": elem.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, elem.size(), device="meta", **layout)
        tensor.elem = elem
        return tensor

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor on cuda:7 to numpy; copy it to the host first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.elem.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.elem})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _wrapped(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) else value


def _bare(value: Any) -> Any:
    return value.elem if isinstance(value, OnGpu) else value


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")  # meta: what C++ sees of a wrapper


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation of the dispatcher, on the CPU, after a check of where its tensors lie."""
    name = func.__name__.split(".")[0]
    if name == "copy_":
        func(_bare(args[0]), _bare(args[1]), *args[2:], **kwargs)
        return args[0]
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    is_there = any(isinstance(tensor, OnGpu) for tensor in tensors)
    if kwargs.get("device") is not None:
        is_there = _is_gpu(kwargs["device"])
        kwargs = {**kwargs, "device": CPU}
    if name == "_to_copy":
        out = func(_bare(args[0]), **kwargs)
        return _wrapped(out.clone() if out is _bare(args[0]) else out) if is_there else out
    _check_devices(name, args, tensors)
    if is_there:  # the lazy bit of a conjugate would be lost under the wrapper
        func = {"_conj": torch.ops.aten.conj_physical.default, "_neg_view": torch.ops.aten.neg.default}.get(name, func)
    out = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
    if not is_there:
        return out
    return args[0] if name.endswith("_") and isinstance(args[0], OnGpu) else tree_map(_wrapped, out)


def _check_devices(name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """RuntimeError where tensors of two devices meet, but for plain numbers and for indices, as on a real GPU."""
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    if not here or not there:
        return
    first = args[0]
    if "index" in name and name.split("index")[1] in ("", "_put", "_put_") and isinstance(first, OnGpu):
        here = [value for value in args[2:3] if not isinstance(value, OnGpu)]  # an index may lie anywhere
    is_written = name.endswith("_") and isinstance(first, torch.Tensor) and not isinstance(first, OnGpu)
    if is_written or any(tensor.dim() for tensor in here):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise RuntimeError(f"{name}: all tensors are needed on one device, found cuda:7 and cpu (shapes {shapes})")


class _Operations(TorchDispatchMode):
    """Sees what no wrapper is an argument of: tensors that are made on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Sees what moves between devices before C++ looks for a real GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cpu:
            return _moved(args[0], CPU)
        if func is torch.Tensor.to:
            return _moved(*args, **kwargs)
        return func(*args, **kwargs)


def _moved(tensor: torch.Tensor, *where: Any, **options: Any) -> torch.Tensor:
    """`Tensor.to`, which knows a device, a type of number and a memory format."""
    device, dtype, layout = options.get("device"), options.get("dtype"), options.get("memory_format")
    for word in where:
        if isinstance(word, torch.dtype):
            dtype = word
        elif isinstance(word, torch.Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, str | torch.device):
            device = word
    is_there = isinstance(tensor, OnGpu)
    goes_there = is_there if device is None else _is_gpu(device)
    is_same = dtype in (None, tensor.dtype) and layout in (None, torch.preserve_format)
    if goes_there == is_there and is_same:
        return tensor
    form = {} if layout is None else {"memory_format": layout}
    return torch.ops.aten._to_copy.default(tensor, dtype=dtype, device=GPU if goes_there else CPU, **form)


def _then_moved(make: Any) -> Any:
    """`torch.tensor` and its like, which would look for a real GPU; a backward pass calls them outside the modes."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return make(*args, **kwargs) if device is None else _moved(make(*args, **kwargs), device)

    return made


def _without_gradients(mode: bool = True) -> Any:
    """What stands for inference mode, which the wrappers can't bear."""
    return torch.no_grad() if mode else contextlib.nullcontext()


@contextlib.contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """Inside, this machine has a GPU: its device."""
    cuda = {"is_available": True, "device_count": 8, "current_device": 7, "_lazy_init": None, "synchronize": None}
    with contextlib.ExitStack() as stack:
        for name, answer in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer: answer))
        stack.enter_context(mock.patch.object(torch, "inference_mode", _without_gradients))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(mock.patch.object(torch, name, _then_moved(getattr(torch, name))))
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        yield GPU
