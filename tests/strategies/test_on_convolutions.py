"""The strategies on convolutional networks: channels that convolutions read, that flatten into several inputs of a
linear layer, or that pass batch normalisation within a residual network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from lopbench.architectures import ConvNet, ResNet18
from lopbench.errors import UserError
from lopbench.learner import call_task_hook, forward, initial_state, make_block
from lopbench.optimizers.sgd import SGD
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.protocols import Clock, Problem, Strategy, Tree
from lopbench.strategies import ContinualBackprop, L2Init, ReDo, Reset, SelectiveWeightReinit, ShrinkAndPerturb
from tests.helpers import TinyStream, event_at, run, tiny_population

IMAGES = Problem((2, 12, 12), 3, "cross_entropy")
PLACES = 4  # of a channel of the last convolution: maps of 10 x 10, pooled 5 x 5; of 4 x 4, pooled 2 x 2


@dataclass(frozen=True)
class TinyImages(TinyStream):
    """TinyStream with images."""

    inputs: int = 2 * 12 * 12

    @property
    def problem(self) -> Problem:
        return IMAGES

    def _draw(self, seeds: Tensor, purpose: str, steps: Tensor, size: int) -> tuple[Tensor, Tensor]:
        x, y = super()._draw(seeds, purpose, steps, size)
        return x.unflatten(-1, IMAGES.input_shape), y


def convnet(**fields: bool) -> ConvNet:
    return ConvNet(IMAGES, channels=(4, 3), kernels=(3, 2), hidden=(5,), **fields)


def resnet() -> ResNet18:
    return ResNet18(IMAGES, width=2)


NETWORKS = {
    "convnet": convnet,
    "convnet, features before pooling": lambda: convnet(features_before_pooling=True),
    "convnet, layer norm": lambda: convnet(layer_norm=True),
    "resnet": resnet,
}
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)

#: groups in their order, and the layer that reads the last one
LAYERS = {
    ConvNet: ["conv.0", "conv.1", "hidden.0", "output"],
    ResNet18: ["stem", *(f"blocks.{k}.conv{i}" for k in range(8) for i in (1, 2)), "head"],
}


def population(
    module: nn.Module, strategies: Sequence[Strategy], seeds: Sequence[int] = (3, 2**40 + 1), steps_per_task: int = 1000
) -> Population:
    made = tiny_population(
        strategies,
        module=module,
        seeds=seeds,
        dtype=torch.float64,
        optimizer=SGD(0.05, 0.9),
        steps_per_task=steps_per_task,
    )
    return replace(made, stream=TinyImages(made.seeds, dtype=made.dtype, steps_per_task=steps_per_task))


def with_and_without(p: Population, state: Tree, update: int) -> tuple[Tree, Tree]:
    """The states after update number `update` as it is, and had nothing been due in it."""
    assert event_at(p, 0, update) is not None
    clock = Clock(*(torch.tensor(value) for value in (update - 1, 0, update - 1)))
    plain, _ = make_block(p, 1)(state, clock, p.stream.prepare(update - 1), {})
    return run(p, 1, state, update - 1), plain


def norm_of(layer: str) -> str:
    """ "conv.1" -> "conv_norm.1", "stem" -> "stem_norm", "blocks.0.conv1" -> "blocks.0.norm1"."""
    if layer == "stem":
        return "stem_norm"
    return layer.replace(".conv", ".norm").replace("conv.", "conv_norm.").replace("hidden.", "hidden_norm.")


def columns_of(layer: str, unit: int) -> slice:
    """Where a unit lies among the inputs of the next layer."""
    places = PLACES if layer == "conv.1" else 1
    return slice(places * unit, places * (unit + 1))


def assert_replaced(module: nn.Module, units: dict[str, Tensor], after: Tree, plain: Tree) -> None:
    """These units, bool `[R, units]` of each layer, start afresh, and no entry but theirs is touched.

    A layer is replaced after the one below: weights from one replaced unit to another are fresh, not 0.
    """
    theirs = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in plain.items()}
    for layer, reader in itertools.pairwise(LAYERS[type(module)]):
        for r, unit in units[layer].nonzero().tolist():
            columns, others = columns_of(layer, unit), ~units[reader][r] if reader in units else slice(None)
            assert not after[f"{reader}.weight"][r, others, columns].any()
            assert (after[f"{layer}.weight"][r, unit] != plain[f"{layer}.weight"][r, unit]).all()
            theirs[f"{reader}.weight"][r, :, columns] = theirs[f"{layer}.weight"][r, unit] = True
            for name, first in ((f"{layer}.bias", 0), (f"{norm_of(layer)}.weight", 1), (f"{norm_of(layer)}.bias", 0)):
                if name in after:
                    assert (after[name][r, unit] == first).all(), name
                    theirs[name][r, unit] = True
    for name, mask in theirs.items():
        assert torch.equal(after[name][~mask], plain[name][~mask]), name


@EVERY_NETWORK
def test_continual_backprop_touches_the_entries_of_the_replaced_channels_and_no_others(network: str) -> None:
    module = NETWORKS[network]()
    strategy = ContinualBackprop(0.3, maturity_threshold=2, utility="adaptable_contribution", clear_optimizer=False)
    p = population(module, [strategy])
    seen = dict.fromkeys(LAYERS[type(module)][:-1], 0)
    state = run(p, 2)
    for update in range(3, 8):
        if event_at(p, 0, update) is None:
            state = run(p, 1, state, update - 1)
            continue
        after, plain = with_and_without(p, state, update)
        units = {name: memory["ages"] == 0 for name, memory in after["strategies"]["0"].items()}
        assert_replaced(module, units, after["parameters"], plain["parameters"])
        for name, chosen in units.items():
            seen[name] += int(chosen.sum())
        state = after
    assert all(seen.values()), seen
    assert state["online"]["reinitialized_units"].sum() == sum(seen.values())


@EVERY_NETWORK
def test_redo_recycles_exactly_the_channels_that_are_silent_on_the_batch(network: str) -> None:
    module = NETWORKS[network]()
    p = population(module, [ReDo(0.0, period=1)])
    state, shift = initial_state(p), "norm_bias" if network in ("convnet, layer norm", "resnet") else "bias"
    for group in p.groups[1:4]:  # of the residual network up to a block's output, which the shortcut keeps alive
        link = getattr(group, shift)
        state["parameters"][link.parameter][:, 1] = -100.0
    x, y = p.stream.batches(p.stream.prepare(0), Clock(*[torch.tensor(0)] * 3), 1)
    features = forward(p, state["parameters"], state["buffers"], x[0], y[0], torch.tensor(0))[3]
    units = {}
    for group in p.groups:
        places = features[group.feature].unflatten(2, (group.units, -1)).flatten(3)  # [R, B, units, places]
        units[group.name] = (places == 0).all(dim=3).all(dim=1)
    names = ["conv.1", "hidden.0"] if isinstance(module, ConvNet) else ["blocks.0.conv1", "blocks.1.conv1"]
    assert all(units[name][:, 1].all() for name in names)

    after, plain = with_and_without(p, state, update=1)
    assert after["online"]["reinitialized_units"].tolist() == [
        sum(int(chosen[r].sum()) for chosen in units.values()) for r in range(2)
    ]
    assert_replaced(module, units, after["parameters"], plain["parameters"])


def test_a_replaced_channel_of_the_residual_network_starts_with_fresh_statistics() -> None:
    p = population(resnet(), [ContinualBackprop(0.3, maturity_threshold=2, upstream_running_sum=True)])
    due = next(update for update in range(3, 10) if event_at(p, 0, update))
    after, plain = with_and_without(p, run(p, due - 1), due)
    touched = 0
    for group in p.groups:
        chosen = after["strategies"]["0"][group.name]["ages"] == 0
        for link, first in ((group.norm_mean, 0.0), (group.norm_variance, 1.0)):
            assert link is not None
            old = plain["buffers"][link.parameter]
            assert torch.equal(after["buffers"][link.parameter], torch.where(chosen, first, old))
        touched += int(chosen.sum())
    assert touched > 0
    for name, value in after["buffers"].items():
        if "shortcut" in name or "num_batches" in name:
            assert torch.equal(value, plain["buffers"][name]), name


STRATEGIES = (
    SelectiveWeightReinit(period=2, reinit_factor=0.2),
    ContinualBackprop(replacement_rate=0.2, maturity_threshold=1),
    ReDo(threshold=1.0, period=3),
    ShrinkAndPerturb(perturb_std=1e-3),
    L2Init(l2_weight=1e-2),
)


@EVERY_NETWORK
def test_a_replica_alone_is_the_replica_among_others(network: str) -> None:
    """With every kind of strategy at once, for some updates in float64."""
    together = run(population(NETWORKS[network](), STRATEGIES, seeds=[5, 2**40 + 1, 9]), 6)
    assert together["alive"].all() and (together["online"]["reinitialized_units"] > 0).all()
    for r, seed in ((0, 5), (2, 9)):
        alone = run(population(NETWORKS[network](), STRATEGIES, seeds=[seed]), 6)
        map_tree(torch.testing.assert_close, slice_replicas(together, slice(r, r + 1)), alone)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@EVERY_NETWORK
def test_each_acts_on_every_layer(network: str, strategy: Strategy) -> None:
    """After the update in which it does, weights of all layers differ from plain training's."""
    end, plain = (run(population(NETWORKS[network](), acts), 6)["parameters"] for acts in ([strategy], []))
    for name, value in end.items():
        if name.endswith("weight") and "norm" not in name and "shortcut" not in name:
            assert (value != plain[name]).flatten(1).any(dim=1).all(), name


def test_a_zero_head_is_0_again_at_every_task_and_the_rest_stays() -> None:
    p = population(convnet(zero_head=True), [Reset(parts=["head"])], steps_per_task=3)
    start, end = initial_state(p)["parameters"], run(p, 3)
    clock = Clock(*(torch.tensor(value) for value in (3, 1, 0)))
    after = call_task_hook(p, end, clock, "begin_task", task=1)["parameters"]
    for name, value in after.items():
        if name.startswith("output."):
            assert not start[name].any() and end["parameters"][name].any() and not value.any()
        else:
            assert torch.equal(value, end["parameters"][name])


def test_the_transfer_to_the_readers_bias_is_refused_behind_batch_norm() -> None:
    with pytest.raises(UserError, match=r"transfer_mean_to_bias is True, but stem is normalised"):
        population(resnet(), [ContinualBackprop(transfer_mean_to_bias=True)])


def test_convolutions_may_be_drawn_by_another_scheme_than_linear_layers() -> None:
    everything = {"replacement_rate": 1.0, "maturity_threshold": 0, "clear_optimizer": False}
    l2_init = ContinualBackprop(
        **everything, initialization="kaiming_uniform", convolution_initialization="default"
    )  # as published there: bounds sqrt(1 / fan_in) and sqrt(6 / fan_in)
    p = population(convnet(), [l2_init], seeds=(3,))
    fresh = run(p, 1)["parameters"]
    bounds = {"conv.0": (2 * 9) ** -0.5, "conv.1": (4 * 4) ** -0.5, "hidden.0": (6 / 12) ** 0.5}
    for layer, bound in bounds.items():
        largest = fresh[f"{layer}.weight"].abs().max()
        assert 0.8 * bound < largest <= bound, layer


def test_a_wrong_scheme_for_convolutions_is_refused() -> None:
    with pytest.raises(UserError, match=r"convolution_initialization is 'kaiming': it must be one of record"):
        ContinualBackprop(convolution_initialization="kaiming")
