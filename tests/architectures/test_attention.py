"""Attention: softmax of products and torch's fused kernel agree, and `vmap` calls the kernel once for all replicas."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from lopbench.architectures import fused_attention
from lopbench.architectures.attention import SelfAttention
from lopbench.keyed_random import uniforms

REPLICAS, EXAMPLES, TOKENS, WIDTH, HEADS = 3, 4, 5, 12, 2
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
#: the operators of all kernels, and those of their gradients
FORWARD = (fused_attention._CPU[0], *fused_attention._CUDA)
BACKWARD = (fused_attention._CPU[1], *fused_attention._CUDA_BACKWARD)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]


@pytest.fixture(autouse=True)
def no_loop_over_replicas() -> Iterator[None]:
    """torch warns where it has no batching rule and loops."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        yield


def projections(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, ...]:
    """Queries, keys and values `[R, B, heads, T, d]`."""
    shape = (3, REPLICAS, EXAMPLES, HEADS, TOKENS, WIDTH // HEADS)
    return torch.randn(shape, generator=torch.manual_seed(0), dtype=torch.float64).to(device, dtype).unbind()


def softmax_of_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask, dim=-1) @ v


def loss_of(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *qkv: (attention(*qkv).square() * torch.arange(1, TOKENS + 1, device=qkv[0].device)[:, None]).sum()


# the fused kernel under vmap


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_fused_attention_and_its_gradients_are_softmax_of_products(dtype: torch.dtype, device: str) -> None:
    qkv = projections(dtype, device)
    tolerance = TOLERANCES[dtype]
    close = functools.partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    close(vmap(functional.scaled_dot_product_attention)(*qkv), softmax_of_products(*qkv))
    fused = vmap(grad(loss_of(functional.scaled_dot_product_attention), argnums=(0, 1, 2)))(*qkv)
    for ours, theirs in zip(fused, vmap(grad(loss_of(softmax_of_products), argnums=(0, 1, 2)))(*qkv), strict=True):
        close(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)


def calls(run: Callable[..., Any], *args: Tensor) -> tuple[int, int]:
    """How often fused kernels ran, forward and backward, by the profiler's account.

    It also lists the call that `vmap` intercepts: the kernels' are those that call no operator of their own name.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(*args)
    kernels = [e.name for e in profiler.events() if e.name not in (child.name for child in e.cpu_children)]
    forward, backward = (sum(kernels.count(f"aten::{name}") for name in names) for names in (FORWARD, BACKWARD))
    return forward, backward


@pytest.mark.parametrize("device", DEVICES)
def test_one_kernel_runs_for_all_replicas(device: str) -> None:
    qkv, attention = projections(torch.float32, device), functional.scaled_dot_product_attention
    assert calls(lambda: [attention(*each) for each in zip(*qkv, strict=True)]) == (REPLICAS, 0)
    assert calls(vmap(attention), *qkv) == (1, 0)
    assert calls(vmap(grad(loss_of(attention))), *qkv) == (1, 1)


@pytest.mark.parametrize("in_dims", [(0, None, 0), (None, 0, None), (1, 2, 0), (-1, 0, None)])
def test_any_axis_may_be_the_replicas(in_dims: tuple[int | None, ...]) -> None:
    """None: the same for all replicas."""
    moved = [t[0] if axis is None else t.movedim(0, axis) for t, axis in zip(projections(), in_dims, strict=True)]
    for wanted in (lambda f: f, lambda f: grad(loss_of(f), argnums=(0, 1, 2))):
        fused = vmap(wanted(functional.scaled_dot_product_attention), in_dims)(*moved)
        torch.testing.assert_close(fused, vmap(wanted(softmax_of_products), in_dims)(*moved))


@pytest.mark.parametrize("shape", [(TOKENS, TOKENS), (1, 1, TOKENS, TOKENS), (EXAMPLES, HEADS, TOKENS, TOKENS)])
@pytest.mark.parametrize("shared", [True, False])
def test_masks_of_any_shape(shape: tuple[int, ...], shared: bool) -> None:
    """Modules from elsewhere may have them; torch's own rules are ours for the whole process."""
    size = shape if shared else (REPLICAS, *shape)
    mask = torch.randn(size, generator=torch.manual_seed(3), dtype=torch.float64)
    in_dims = (0, 0, 0, None if shared else 0)
    fused = vmap(functional.scaled_dot_product_attention, in_dims)(*projections(), mask)
    torch.testing.assert_close(fused, vmap(softmax_of_products, in_dims)(*projections(), mask))


def test_vmap_within_vmap() -> None:
    qkv, attention = projections(), functional.scaled_dot_product_attention
    q, k, v = (t.unflatten(1, (2, 2)) for t in qkv)  # [R, 2, 2, heads, T, d]
    expected = softmax_of_products(q, k, v)
    torch.testing.assert_close(vmap(vmap(attention))(q, k, v), expected)
    ignoring = vmap(lambda q, k, v: vmap(lambda _: attention(q, k, v))(torch.zeros(2)))(*qkv)  # not its own level
    torch.testing.assert_close(ignoring, softmax_of_products(*qkv)[:, None].expand_as(ignoring))


def test_the_rules_are_registered_once() -> None:
    """Imported anew, the module gives the rules anew; what has one is left alone."""
    before = {name for name in fused_attention._CPU if fused_attention._has_rule(name)}
    assert before == set(fused_attention._CPU)
    fused_attention._register()
    importlib.reload(fused_attention)
    assert "cpu" in fused_attention.FUSED_DEVICES
    assert calls(vmap(functional.scaled_dot_product_attention), *projections()) == (1, 0)


@pytest.mark.parametrize("name", fused_attention._CUDA_BACKWARD)
def test_the_gradients_on_cuda_have_a_rule_too(name: str) -> None:
    """On tensors without values: the shapes are right, and nothing loops."""
    q = k = v = out = grad_out = torch.empty(REPLICAS, EXAMPLES, HEADS, TOKENS, 8, device="meta")
    logsumexp = torch.empty(REPLICAS, EXAMPLES, HEADS, 32, device="meta")
    seed = torch.empty((), dtype=torch.int64, device="meta")
    rest = {
        "flash": (None, None, TOKENS, TOKENS, 0.0, False, seed, seed),
        "efficient": (seed, seed, 0.0, [True, True, True, False], False),
        "cudnn": (seed, seed, None, None, None, TOKENS, TOKENS, 0.0, False),
    }[name.removeprefix("_scaled_dot_product_").removesuffix("_attention_backward")]
    operator = getattr(torch.ops.aten, name)

    def gradients(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor) -> Any:
        bias = [None] if "efficient" in name else []
        return operator(grad_out, q, k, v, *bias, out, logsumexp, *rest)[:3]

    shapes = [gradient.shape for gradient in vmap(gradients)(grad_out, q, k, v, out, logsumexp)]
    assert shapes == [q.shape, k.shape, v.shape]


# the layer


def layer_and_parameters(dropout: float = 0.0) -> tuple[SelfAttention, dict[str, Tensor]]:
    layer, generator = SelfAttention(WIDTH, HEADS, dropout, "attention"), torch.manual_seed(1)
    return layer, {
        name: torch.randn(REPLICAS, *value.shape, generator=generator, dtype=torch.float64) / 3
        for name, value in layer.named_parameters()
    }


def run(layer: SelfAttention, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return vmap(lambda p, x: functional_call(layer, p, (x,)))(parameters, x)


def tokens() -> Tensor:
    return torch.randn(REPLICAS, EXAMPLES, TOKENS, WIDTH, generator=torch.manual_seed(2), dtype=torch.float64)


def test_the_layer_is_torchs() -> None:
    layer, parameters = layer_and_parameters()
    for r, x in enumerate(tokens()):
        theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
        names = ("in_projection.weight", "in_projection.bias", "out_projection.weight", "out_projection.bias")
        theirs.load_state_dict(dict(zip(theirs.state_dict(), (parameters[name][r] for name in names), strict=True)))
        torch.testing.assert_close(run(layer, parameters, tokens())[r], theirs(x, x, x)[0])


def test_dropout_is_on_the_weights() -> None:
    layer, parameters = layer_and_parameters(dropout=0.4)
    key = torch.tensor([[seed, 7] for seed in range(REPLICAS)])
    ours = run(layer, {**parameters, "dropout.key": key}, tokens())

    for r, x in enumerate(tokens()):
        p = {name: value[r] for name, value in parameters.items()}
        projected = x @ p["in_projection.weight"].T + p["in_projection.bias"]
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in projected.split(WIDTH, dim=-1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH / HEADS), dim=-1)
        u = uniforms(key[r, :1], "dropout/attention.weights", key[r, 1], weights.numel()).reshape(weights.shape)
        heads = torch.where(u < 0.4, 0.0, weights / 0.6) @ v
        expected = heads.transpose(1, 2).flatten(2) @ p["out_projection.weight"].T + p["out_projection.bias"]
        torch.testing.assert_close(ours[r], expected)


def test_the_fused_kernel_runs_where_nothing_is_dropped_and_only_there() -> None:
    for dropout, training, expected in ((0.4, True, (0, 0)), (0.4, False, (1, 0)), (0.0, True, (1, 0))):
        layer, parameters = layer_and_parameters(dropout)
        assert calls(lambda: run(layer.train(training), parameters, tokens())) == expected  # noqa: B023


def test_without_the_operators_it_is_softmax_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, parameters = layer_and_parameters()
    fused = run(layer, parameters, tokens())
    monkeypatch.setattr("lopbench.architectures.attention.FUSED_DEVICES", frozenset())
    assert calls(lambda: run(layer, parameters, tokens())) == (0, 0)
    torch.testing.assert_close(run(layer, parameters, tokens()), fused)


def test_compiled_it_is_one_kernel_in_one_graph() -> None:
    layer, parameters = layer_and_parameters()
    layer.eval()

    def gradients(parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        return vmap(grad(lambda p, x: functional_call(layer, p, (x,)).square().sum()))(parameters, x)

    seen: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(gradients, fullgraph=True, dynamic=False, backend=aot_autograd(fw_compiler=look))
    torch.testing.assert_close(compiled(parameters, tokens()), gradients(parameters, tokens()))
    for name in fused_attention._CPU:
        assert seen.count(f"aten.{name}.default") == 1
