"""Dropout: keyed masks that keep the expectation, and nothing at all where it is off."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from lopbench.architectures.dropout import Dropout

SHAPE = (6, 7, 9)  # of one replica's input; no multiple of the four words that a counter gives


def keys(seeds: list[int], step: int = 0) -> Tensor:
    """The key buffers `[R, 2]` of replicas with these seeds."""
    return torch.tensor([[seed, step] for seed in seeds])


def kept(key: Tensor, name: str = "hidden", probability: float = 0.3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Which elements are kept, bool `[R, *SHAPE]`, for keys `[R, 2]`."""
    layer = Dropout(probability, name)
    x = torch.ones(key.shape[0], *SHAPE, dtype=dtype)
    return vmap(lambda key, x: functional_call(layer, {"key": key}, (x,)))(key, x) != 0


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_a_fraction_is_dropped_and_the_rest_scaled(probability: float) -> None:
    layer, x = Dropout(probability, "hidden"), torch.linspace(1, 2, 40_000)
    y = layer(x)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / x.numel()))
    torch.testing.assert_close(y[y != 0], x[y != 0] / (1 - probability))


def test_the_mean_over_steps_is_the_input() -> None:
    layer, x = Dropout(0.2, "hidden"), torch.linspace(-1, 1, 5, dtype=torch.float64)
    steps = 4000
    each = torch.stack((torch.full((steps,), 3), torch.arange(steps)), dim=1)
    y = vmap(lambda key: functional_call(layer, {"key": key}, (x,)))(each)
    # an element has the standard deviation |x| sqrt(p / (1 - p)) = |x| / 2
    assert ((y.mean(dim=0) - x).abs() <= 5 * x.abs() / 2 / math.sqrt(steps)).all()


@pytest.mark.parametrize("place", [0, 2])
def test_a_replica_has_the_same_mask_alone_and_among_others(place: int) -> None:
    seeds = [5, 2**40 + 1, 8]
    among = kept(keys(seeds, step=11))
    assert torch.equal(kept(keys(seeds[place : place + 1], step=11))[0], among[place])
    layer = Dropout(0.3, "hidden")
    layer.key = keys(seeds, step=11)[place]
    assert torch.equal(layer(torch.ones(SHAPE)) != 0, among[place])


def test_masks_differ_by_step_seed_name_and_element() -> None:
    size, agreement = math.prod(SHAPE), 0.7**2 + 0.3**2  # of two masks drawn apart
    mask = kept(keys([5]))
    others = {
        "step": kept(keys([5], step=1)),
        "seed": kept(keys([6])),
        "name": kept(keys([5]), name="output"),
        "element": mask.flatten().roll(1).reshape(mask.shape),
    }
    for what, other in others.items():
        error = 5 * math.sqrt(agreement * (1 - agreement) / size)
        assert (mask == other).float().mean().item() == pytest.approx(agreement, abs=error), what


def test_the_mask_is_the_same_in_any_precision() -> None:
    assert torch.equal(kept(keys([5, 6])), kept(keys([5, 6]), dtype=torch.float64))


def test_off_it_draws_nothing() -> None:
    x = torch.ones(3)
    for layer in (Dropout(0.5, "hidden").eval(), Dropout(0.0, "hidden")):
        assert not layer.draws
        layer.key = torch.tensor([])  # of no use to a draw
        assert layer(x) is x
    assert Dropout(0.5, "hidden").draws


def test_the_key_is_a_buffer_but_no_state() -> None:
    layer = Dropout(0.5, "hidden")
    assert [(name, value.shape, value.dtype) for name, value in layer.named_buffers()] == [("key", (2,), torch.int64)]
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_traced_under_vmap_and_grad_it_is_one_graph_for_all_steps() -> None:
    """tests/architectures/test_vit.py compiles it as a run does."""
    layer, x = Dropout(0.3, "hidden"), torch.linspace(1, 2, 2 * math.prod(SHAPE)).reshape(2, *SHAPE)

    def gradients(key: Tensor, x: Tensor) -> Tensor:
        return vmap(grad(lambda x, key: functional_call(layer, {"key": key}, (x,)).square().sum()))(x, key)

    compiled = torch.compile(gradients, fullgraph=True, dynamic=False, backend="aot_eager")
    for step in (0, 2**33):
        key = keys([5, 2**40 + 1], step)
        torch.testing.assert_close(compiled(key, x), gradients(key, x))
        torch.testing.assert_close(gradients(key, x), torch.where(kept(key), 2 * x / 0.7**2, 0.0))
