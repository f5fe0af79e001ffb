"""Resets: which parts, when, in which replicas, and what becomes of the optimizer's state."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lopbench.architectures import MLP
from lopbench.errors import UserError
from lopbench.initializers import Initial, uniform
from lopbench.learner import call_task_hook
from lopbench.optimizers.adam import Adam
from lopbench.protocols import Clock
from lopbench.strategies.reset import Reset
from lopbench.streams import ClassIncremental
from lopbench.streams.sources import Generated
from tests.helpers import Tensors, call, learner_for, run, tiny_population

NORMS, HEAD = {"norm.weight", "norm.bias"}, {"output.weight", "output.bias"}


def trained(strategies, **population):
    """The learner of a population after three plain updates, about to begin a task."""
    state = run(tiny_population(**population), 3)
    learner = learner_for(None, strategies, parameters=state["parameters"], buffers=state["buffers"], **population)
    learner.optimizer_state = state["optimizer"]
    return learner


def changed(learner, before):
    return {name for name, value in learner.parameters.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    "parts, expected",
    [
        (["head"], HEAD),
        (["norms"], NORMS),
        (("head", "norms"), HEAD | NORMS),
        (["network"], None),
        (["momentum"], set()),
        ([], set()),
    ],
)
def test_the_named_parts_are_drawn_anew_and_nothing_else_moves(parts, expected):
    learner = trained(Reset(parts=parts))
    before = dict(learner.parameters)
    call(learner, "begin_task", update=4)
    everything = set(before)
    assert changed(learner, before) == (everything if expected is None else expected)
    entries = sum(before[name][0].numel() for name in (everything if expected is None else expected))
    assert learner.reported["reinitialized_weights"].tolist() == [entries] * 2


class Transformer(nn.Module):
    """The parts of a transformer's block, by their names; layers within layers, norms within each."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.mlp = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.output(self.mlp(self.attention(x))), {}

    def initial_records(self) -> dict[str, Initial]:
        return {name: uniform(0.5) for name, _ in self.named_parameters()}


@pytest.mark.parametrize(
    "parts, layers",
    [(["attention"], ["attention.0"]), (["mlp_blocks"], ["mlp.0"]), (["norms"], ["attention.1", "mlp.1"])],
)
def test_layers_of_a_kind_are_drawn_anew_without_the_norms_in_them(parts, layers):
    learner = learner_for(Transformer(), Reset(parts=parts))
    before = dict(learner.parameters)
    call(learner, "begin_task", update=4)
    assert changed(learner, before) == {f"{layer}.{p}" for layer in layers for p in ("weight", "bias")}


def test_without_parts_a_run_is_the_plain_one():
    """So that a file may list the strategy, and a binding switch it on."""
    nothing = Reset(parts=[])
    assert not nothing.needs_task_boundaries
    state, plain = (run(tiny_population(strategies, steps_per_task=2), 4) for strategies in ([nothing], []))
    assert all(torch.equal(value, plain["parameters"][name]) for name, value in state["parameters"].items())
    assert state["online"]["reinitialized_weights"].tolist() == [0, 0]


def test_new_values_come_from_the_initial_records_and_are_not_the_first_ones():
    learner = trained(Reset(parts=["network"]))
    first = learner.population.initial_parameters()
    call(learner, "begin_task", update=4)
    assert (learner.parameters["norm.weight"] == 1).all() and not learner.parameters["output.bias"].any()
    for name in ("hidden.weight", "output.weight"):
        assert learner.parameters[name].abs().max() <= first[name].shape[-1] ** -0.5
        assert (learner.parameters[name] != first[name]).all()


def test_momentum_is_kept_unless_it_is_among_the_parts():
    kept, cleared = trained(Reset(parts=["network"])), trained(Reset(parts=["network", "momentum"]))
    before = kept.optimizer_state
    for learner in (kept, cleared):
        call(learner, "begin_task", update=4)
    for name, slot in before["momentum"].items():
        assert slot.any() and torch.equal(kept.optimizer_state["momentum"][name], slot)
        assert not cleared.optimizer_state["momentum"][name].any()


def test_clear_optimizer_clears_the_state_of_what_was_drawn_anew():
    learner = trained(Reset(parts=["head"], clear_optimizer=True))
    before = learner.optimizer_state["momentum"]
    call(learner, "begin_task", update=4)
    for name, slot in learner.optimizer_state["momentum"].items():
        assert not slot.any() if name in HEAD else torch.equal(slot, before[name])


def test_momentum_restarts_step_counts_as_a_new_optimizer_does():
    learner = trained(Reset(parts=["momentum"]), optimizer=Adam())
    assert learner.optimizer_state["steps"].tolist() == [3, 3]
    call(learner, "begin_task", update=4)
    assert learner.optimizer_state["steps"].tolist() == [0, 0]
    assert not any(slot.any() for slot in learner.optimizer_state["v"].values())


def test_with_a_period_it_acts_after_its_multiples_in_the_replicas_that_are_due():
    strategies = [Reset(parts=["network", "momentum"], when="period", period=period) for period in (3, 2, None)]
    learner = learner_for(strategies=strategies)
    first = dict(learner.parameters)
    slots = {name: torch.ones_like(p) for name, p in first.items()}
    acted = []
    for update in range(1, 7):
        learner.parameters, learner.optimizer_state = dict(first), {"momentum": slots}
        call(learner, "after_update", update)
        acted.append((learner.parameters["hidden.weight"] != first["hidden.weight"]).flatten(1).all(dim=1))
        cleared = (learner.optimizer_state["momentum"]["hidden.weight"] == 0).flatten(1).all(dim=1)
        assert torch.equal(acted[-1], cleared)
    assert torch.stack(acted).int().tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]
    call(learner, "begin_task")
    assert torch.equal(learner.parameters["hidden.weight"][2], first["hidden.weight"][2])
    assert not strategies[0].needs_task_boundaries


def test_a_network_reset_at_each_task_starts_each_task_anew():
    """After a reset training goes on as from a fresh network with a fresh optimizer."""
    population = tiny_population([Reset()], steps_per_task=3)
    assert population.strategies[0].needs_task_boundaries
    state = run(population, 4)
    assert state["online"]["reinitialized_weights"].tolist() == [53, 53]
    again = run(population, 1, run(population, 3), done=3)
    assert all(torch.equal(value, again["parameters"][name]) for name, value in state["parameters"].items())
    momentum = state["optimizer"]["momentum"]["output.bias"]
    assert (momentum.abs().sum(dim=1) <= 2).all() and momentum.any()  # one gradient of a cross-entropy: no more than 2


class BatchNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.between, self.output = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.output(self.between(self.hidden(x))), {}


@pytest.mark.parametrize("part, keep", [("network", False), ("norms", False), ("network", True), ("head", False)])
def test_running_statistics_are_reset_with_the_network_and_with_the_norms(part, keep):
    module = BatchNormed()
    state = run(tiny_population(module=module), 3)
    strategy = Reset(parts=[part], keep_running_statistics=keep)
    learner = learner_for(module, strategy, parameters=state["parameters"], buffers=state["buffers"])
    call(learner, "begin_task", update=4)
    assert state["buffers"]["between.num_batches_tracked"].tolist() == [3, 3]
    first = (torch.zeros(2, 5), torch.ones(2, 5), torch.zeros(2, dtype=torch.int64))
    for name, value in zip(("running_mean", "running_var", "num_batches_tracked"), first, strict=True):
        expected = state["buffers"][f"between.{name}"] if part == "head" or keep else value
        assert torch.equal(learner.buffers[f"between.{name}"], expected)


def test_what_the_network_lacks_is_refused_before_training():
    population = tiny_population(module=Tensors({"a": (2,)}))
    with pytest.raises(UserError, match=r"Tensors does not show which layer is its head"):
        Reset(parts=["head"]).check(population)
    lacking = {"norms": "normalisation", "attention": "attention layer", "mlp_blocks": "MLP block"}
    for part, layer in lacking.items():
        with pytest.raises(UserError, match=f'strategies.Reset.parts has "{part}", but Tensors has no {layer}'):
            Reset(parts=[part]).check(population)


@pytest.mark.parametrize("parts", ["head", None, ["heads"]])
def test_wrong_parts_are_refused(parts):
    with pytest.raises(UserError, match=r"strategies.Reset.parts is"):
        Reset(parts=parts)


def test_parts_are_stored_as_a_tuple_so_that_replicas_compare_equal():
    assert Reset(parts=["head"]) == Reset(parts=("head",))


def test_new_outputs_are_the_rows_that_a_task_adds():
    data = Generated(classes=4, shape=(2, 3), train_size=40, test_size=8).load(None, "cpu")
    seeds = torch.tensor([3, 5])
    stream = ClassIncremental(
        data, seeds, torch.float32, batch_size=4, epochs_per_task=1, classes_per_task=2, validation_per_class=2
    )
    made = tiny_population([Reset()], module=MLP(stream.problem, width=3), seeds=seeds.tolist())
    p = replace(made, stream=stream, strategies=(Reset(parts=["new_outputs"]),))
    p.strategies[0].check(p)
    state = run(p, 3)  # not yet at the end of the first task
    clock = Clock(*(torch.tensor(value) for value in (stream.task_length(0), 1, 0)))
    after = call_task_hook(p, state, clock, "begin_task", 1)
    for name, value in after["parameters"].items():
        if name == "output.weight":
            moved = (value != state["parameters"][name]).any(dim=2)
            assert moved.tolist() == [[False, False, True, True]] * 2
        elif name != "output.bias":  # a bias begins at 0, to which the rows go back
            torch.testing.assert_close(value, state["parameters"][name])
    assert not after["parameters"]["output.bias"][:, 2:].any()
    torch.testing.assert_close(after["parameters"]["output.bias"][:, :2], state["parameters"]["output.bias"][:, :2])


@pytest.mark.parametrize("settings", [{}, {"when": "period", "period": 3}])
def test_new_outputs_want_a_stream_that_adds_some(settings):
    with pytest.raises(UserError, match='has "new_outputs", which come with the tasks of streams that add classes'):
        tiny_population([Reset(parts=["new_outputs"], **settings)])
