"""Magnitudes of weights and gradients."""

import pytest
import torch

from lopbench.learner import initial_state, per_example_loss
from lopbench.metrics import DistanceFromInitial, GradientMagnitude, WeightMagnitude
from lopbench.population import along
from lopbench.probing import measure, probe
from tests.helpers import tiny_population


def test_weight_magnitudes_of_a_network_with_a_norm():
    population = tiny_population()
    state = initial_state(population)
    replicas = torch.tensor([1.0, -2.0])
    names = ("hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "output.weight", "output.bias")
    for value, name in enumerate(names, start=1):
        parameter = state["parameters"][name]
        state["parameters"][name] = torch.full_like(parameter, value) * along(replicas, parameter)
    values = measure(population, state, [WeightMagnitude()], task=0)

    # TinyNet: hidden 5x4 and 5, norm 5 and 5, output 3x5 and 3
    everything = (20 * 1 + 5 * 2 + 5 * 3 + 5 * 4 + 15 * 5 + 3 * 6) / 53
    assert values["weights/magnitude"].tolist() == pytest.approx([everything, 2 * everything])
    assert values["weights/magnitude_matrices"].tolist() == pytest.approx([95 / 35, 190 / 35])
    assert values["weights/norm_magnitude"].tolist() == [3, 6]
    assert values["weights/magnitude.output.bias"].tolist() == [6, 12]
    assert len(values) == 3 + 6


def test_without_a_norm_there_is_no_norm_magnitude():
    population = tiny_population(module=torch.nn.Linear(4, 3))
    values = measure(population, initial_state(population), [WeightMagnitude()], task=0)
    tags = {"magnitude", "magnitude.weight", "magnitude.bias", "magnitude_matrices"}
    assert values.keys() == {f"weights/{tag}" for tag in tags}


def test_matrices_are_the_weights_of_at_least_two_axes():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.PReLU(3, init=7.0))
    population = tiny_population(module=module)
    state = initial_state(population)
    values = measure(population, state, [WeightMagnitude()], task=0)
    expected = state["parameters"]["0.weight"].double().abs().mean(dim=(1, 2))
    torch.testing.assert_close(values["weights/magnitude_matrices"], expected)
    assert values["weights/magnitude.1.weight"].tolist() == [7, 7]


class OfAllKinds(torch.nn.Module):
    """A layer of each kind, with constant weights; biases, which belong to no magnitude by kind, are 9."""

    def __init__(self) -> None:
        super().__init__()
        attention = torch.nn.Module()
        attention.in_projection, attention.out = torch.nn.Linear(2, 6), torch.nn.Linear(2, 2)
        self.conv, self.attention, self.mlp = torch.nn.Conv2d(1, 2, 3), attention, torch.nn.Linear(2, 5)
        self.norm, self.head = torch.nn.LayerNorm(2), torch.nn.Linear(2, 3)
        sizes = (self.conv, 1), (attention.in_projection, -2), (attention.out, 8), (self.mlp, 4), (self.norm, 5)
        for layer, size in (*sizes, (self.head, 6)):
            torch.nn.init.constant_(layer.weight, size)
            torch.nn.init.constant_(layer.bias, 9)


def test_magnitudes_by_kind_of_layer():
    population = tiny_population(module=OfAllKinds())
    values = measure(population, initial_state(population), [WeightMagnitude()], task=0)
    assert values["weights/magnitude_convolutions"].tolist() == [1, 1]
    assert values["weights/magnitude_attention"].tolist() == [3.5, 3.5]  # 12 entries of 2, 4 of 8
    assert values["weights/magnitude_in_projections"].tolist() == [2, 2]
    assert values["weights/magnitude_mlp"].tolist() == [4, 4]
    assert values["weights/norm_magnitude"].tolist() == [5, 5]
    matrices = (18 * 1 + 12 * 2 + 4 * 8 + 10 * 4 + 6 * 6) / 50
    assert values["weights/magnitude_matrices"].tolist() == pytest.approx([matrices, matrices])


def test_medians_and_least_values():
    population = tiny_population(dtype=torch.float64)
    state = initial_state(population)
    hidden = torch.tensor([-9.0, 1, 2, 3, 4]).repeat(4).reshape(5, 4)
    state["parameters"]["hidden.weight"] = torch.stack((hidden, -10 * hidden))
    metric = WeightMagnitude(statistics=["median", "min"])
    values = measure(population, state, [metric], task=0)
    assert values["weights/median_magnitude.hidden.weight"].tolist() == [3, 30]
    assert values["weights/min_magnitude.hidden.weight"].tolist() == [1, 10]
    assert values["weights/median_norm_magnitude"].tolist() == [1, 1]
    flat = torch.cat([p.flatten(1).abs() for p in state["parameters"].values()], dim=1)  # 53 entries, 8 of them 0
    assert values["weights/median_magnitude"].tolist() == flat.sort(dim=1).values[:, 26].tolist()
    assert values["weights/min_magnitude"].tolist() == [0, 0]
    mean = measure(population, state, [WeightMagnitude()], task=0)
    names = {tag.replace("/", f"/{statistic}_") for tag in mean for statistic in ("median", "min")}
    assert values.keys() == names


def test_distance_from_initial_values():
    population = tiny_population()
    state = initial_state(population)
    at_first = measure(population, state, [DistanceFromInitial()], task=0)
    assert all(value.tolist() == [0, 0] for value in at_first.values())
    state["parameters"]["hidden.bias"] = state["parameters"]["hidden.bias"] + torch.tensor([3.0, 0, 0, 0, 0])
    state["parameters"]["output.bias"] = state["parameters"]["output.bias"] - torch.tensor([[0.0, 4, 0], [0, 0, 0]])
    values = measure(population, state, [DistanceFromInitial()], task=0)
    torch.testing.assert_close(values["weights/l2_from_initial"], torch.tensor([5.0, 3.0]).double())
    torch.testing.assert_close(values["weights/l2_from_initial.output.bias"], torch.tensor([4.0, 0.0]).double())


def test_gradient_magnitude_is_that_of_autograd():
    population = tiny_population(dtype=torch.float64, replicas=3)
    state = initial_state(population)
    values = measure(population, state, [GradientMagnitude(probe_size=7)], task=2)
    seen = probe(population, state, 7, "train", task=2)
    inputs, targets = population.stream.probe("train", 7, 2)
    assert seen.gradients == {}
    for r in range(3):
        network = population.module.double()
        network.load_state_dict({name: p[r] for name, p in state["parameters"].items()})
        network.zero_grad()
        per_example_loss("cross_entropy", network(inputs[r])[0], targets[r]).backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        total = sum(g.abs().sum() for g in gradients.values()) / sum(g.numel() for g in gradients.values())
        assert values["gradients/magnitude"][r].item() == pytest.approx(total.item(), rel=1e-10)
        for name, g in gradients.items():
            assert values[f"gradients/magnitude.{name}"][r].item() == pytest.approx(g.abs().mean().item(), rel=1e-10)
