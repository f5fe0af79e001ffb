"""Less than float32: in the network's products only, and refused where it would be something else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lopbench.architectures import MLP
from lopbench.errors import UserError
from lopbench.executors import Stacked
from lopbench.learner import initial_state
from lopbench.population import Population, map_tree
from lopbench.precision import check_precision, multiplying
from lopbench.probing import measure
from lopbench.protocols import Clock, Problem
from lopbench.strategies import ContinualBackprop
from lopbench.training import Plan, train
from tests.helpers import tiny_population

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def population(precision: str) -> Population:
    module = MLP(Problem((4,), 3, "cross_entropy"), width=6, depth=2)
    made = tiny_population([ContinualBackprop(0.1, maturity_threshold=2)], module=module)
    return replace(made, precision=precision)


def dtypes(tree: dict) -> set[torch.dtype]:
    found: set[torch.dtype] = set()
    map_tree(lambda leaf: found.add(leaf.dtype), tree)
    return found


def test_the_network_computes_in_bfloat16_and_all_else_in_float32() -> None:
    """Its outputs have few digits; the state has the dtypes of a float32 run, and differs from it by rounding."""
    ends = {}
    for precision in ("float32", "bfloat16"):
        p = population(precision)
        ends[precision] = train(p, Stacked(p, 2), Plan(20, 10), lambda records: None)
    a, b = ends.values()
    assert dtypes(a) == dtypes(b) and torch.bfloat16 not in dtypes(b)
    difference = (a["parameters"]["output.weight"] - b["parameters"]["output.weight"]).abs().max()
    assert 1e-6 < difference < 0.05


def test_metrics_see_the_network_as_training_does() -> None:
    from lopbench.metrics import DeadUnits

    p = population("bfloat16")
    measured = measure(p, initial_state(p), [DeadUnits(probe_size=8)], task=0)
    assert all(value.dtype == torch.float64 for value in measured.values())


def test_a_whole_block_compiles_in_bfloat16() -> None:
    p = population("bfloat16")
    state, clock = initial_state(p), Clock(*(torch.tensor(0) for _ in range(3)))
    compiled, eager = (Stacked(p, 1, block) for block in ("compiled", "eager"))
    a, b = (next(iter(e.calls(state, clock, 1, p.stream.prepare(0), [], {})))[1]() for e in (compiled, eager))
    torch.testing.assert_close(a["parameters"], b["parameters"], rtol=0.02, atol=0.002)


@pytest.mark.parametrize(
    ("precision", "dtype", "device", "said"),
    [
        ("half", torch.float32, CPU, "run.precision is 'half': it must be one of float32, tf32, bfloat16."),
        ("bfloat16", torch.float64, CPU, "run.precision is 'bfloat16' with run.dtype 'float64'"),
        ("tf32", torch.float32, CPU, "run.precision is 'tf32', which GPUs have and this device (cpu) has not"),
    ],
)
def test_what_can_not_be_is_refused(precision: str, dtype: torch.dtype, device: torch.device, said: str) -> None:
    with pytest.raises(UserError) as refused:
        check_precision(precision, dtype, device)
    assert refused.value.message.startswith(said)
    check_precision("tf32", torch.float32, GPU)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_convolutions_and_products_are_rounded_alike(precision: str) -> None:
    """torch's own default rounds the factors of convolutions only."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with multiplying(precision):
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
