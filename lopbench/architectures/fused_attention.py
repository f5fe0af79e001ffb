"""Batching rules for torch's fused attention, with which `vmap` calls a kernel once and not once a replica.

`scaled_dot_product_attention` ends in one operator a device and kernel, and another for its gradient. Under `vmap`
torch has rules for some of them and runs the others in a loop over the replicas, with a performance warning: on the
CPU both operators, on CUDA those for the gradient. Attention treats the examples of a batch alike, so one rule serves
them all: fold the replicas into the batch, `[R, B, ...] -> [R B, ...]`, and unfold what comes out. torch is given the
rules once, when this module is imported, for the whole process; an operator that has a rule of its own keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

_CPU = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
_CUDA = tuple(f"_scaled_dot_product_{kernel}_attention" for kernel in ("flash", "efficient", "cudnn"))
_CUDA_BACKWARD = tuple(f"{name}_backward" for name in _CUDA)

#: the operators' tensors that lead with the examples, and those that may also lack that axis or have 1 there
_LED_BY_EXAMPLES = ("query", "key", "value", "out", "logsumexp", "grad_out", "grad_out_")
_MASKS = ("attn_mask", "attn_bias")

_VMAP = torch._C.DispatchKey.FuncTorchBatched
_library = torch.library.Library("aten", "IMPL")  # owns the rules: they last as long as it does


def _has_rule(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", _VMAP))


def _folding(operator: Any) -> Callable[..., Any]:
    """The batching rule of `operator`: fold the replicas into the batch, call it, unfold its outputs."""
    names = [argument.name for argument in operator._schema.arguments]

    def rule(*args: Any, **kwargs: Any) -> Any:
        level = functorch.current_level()
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_VMAP)):
            tensors = {
                name: functorch._unwrap_batched(value, level)  # and the replicas' axis; None: the same for all
                for name, value in (*zip(names, args, strict=False), *kwargs.items())
                if isinstance(value, Tensor)
            }
            sizes = {tensor.shape[axis] for tensor, axis in tensors.values() if axis is not None}
            if not sizes:  # vmapped at another level only
                return operator(*args, **kwargs)
            (replicas,) = sizes
            query, axis = tensors["query"]
            examples = query.shape[1 if axis == 0 else 0]

            def folded(name: str, value: Any) -> Any:
                return _folded(name, *tensors[name], replicas, examples) if name in tensors else value

            outputs = operator(*map(folded, names, args), **{name: folded(name, kwargs[name]) for name in kwargs})
            return tuple(output if output is None else _unfolded(output, replicas, level) for output in outputs)

    return rule


def _folded(name: str, tensor: Tensor, axis: int | None, replicas: int, examples: int) -> Tensor:
    """`[R, B, ...] -> [R B, ...]`."""
    if name not in _LED_BY_EXAMPLES + _MASKS:
        assert axis is None, f"vmap over {name} of an attention operator"
        return tensor
    stacked = tensor.expand(replicas, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
    if name in _MASKS:  # [R, queries, keys] or [R, B or 1, heads or 1, queries, keys]
        stacked = stacked.reshape(replicas, *[1] * (5 - stacked.dim()), *stacked.shape[1:])
        stacked = stacked.expand(-1, examples, -1, -1, -1)
    return stacked.flatten(0, 1)


def _unfolded(tensor: Tensor, replicas: int, level: int) -> Tensor:
    """`[R B, ...] -> [R, B, ...]`, with the first axis that of `vmap`."""
    return functorch._add_batch_dim(tensor.unflatten(0, (replicas, -1)), 0, level)


def _register() -> None:
    for name in _CPU + _CUDA_BACKWARD:
        if hasattr(torch.ops.aten, name) and not _has_rule(name):
            _library.impl(name, _folding(getattr(torch.ops.aten, name).default), _VMAP.name)


_register()

#: the devices whose fused kernels all have a batching rule now; the others take another road
FUSED_DEVICES = frozenset(
    device
    for device, operators in {"cpu": _CPU, "cuda": _CUDA + _CUDA_BACKWARD}.items()
    if all(hasattr(torch.ops.aten, name) and _has_rule(name) for name in operators)
)
