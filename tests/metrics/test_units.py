"""Dead, frozen, dormant and inactive units, counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from lopbench.errors import UserError
from lopbench.learner import initial_state
from lopbench.metrics import DeadUnits, DormantUnits, InactiveUnits, Ranks
from lopbench.probing import measure
from tests.helpers import tiny_population
from tests.metrics.by_hand import columns, group, probe_of

BY_HAND = [  # activation, activations of each unit, which of them are stuck, under which tag
    ("relu", [[0, 0, 0], [0, 1e-30, 0], [0, 2, 1]], [1, 0, 0], "units/dead"),
    ("sigmoid", [[0.01, 0, 0.005], [0.99, 1, 1], [0.01, 0.99, 0], [0.5, 0, 0]], [1, 1, 0, 0], "units/frozen_0.01"),
    ("tanh", [[-1, -0.995, -0.99], [0.995, 1, 0.99], [-1, 1, 1], [0, 0, 0]], [1, 1, 0, 0], "units/frozen_0.01"),
    ("gelu", [[-0.17, 0, 0.009], [0, 0, 0.02], [0, 0, 0]], [1, 0, 1], "units/frozen_0.01"),
    ("silu", [[-0.27, 0, 0.009], [0, 0, 0.02]], [1, 0], "units/frozen_0.01"),
    ("leaky_relu", [[-0.1, -0.2, -0.3], [0, 0, 0]], [0, 0], "units/dead"),
    ("linear", [[0, 0, 0], [1, 1, 1]], [0, 0], "units/dead"),
]


@pytest.mark.parametrize(("activation", "h", "stuck", "tag"), [pytest.param(*row, id=row[0]) for row in BY_HAND])
def test_dead_and_frozen_units_of_each_activation(activation, h, stuck, tag):
    values = DeadUnits().measure(probe_of({"hidden.0": columns(*h)}, group("hidden.0", len(h), activation)))
    assert values.keys() == {tag, f"{tag}.hidden.0"}
    assert values[tag].tolist() == [sum(stuck) / len(stuck)]
    for unit, expected in enumerate(stuck):
        alone = DeadUnits().measure(probe_of({"hidden.0": columns(h[unit])}, group("hidden.0", 1, activation)))
        assert alone[tag].tolist() == [expected], f"unit {unit} with activations {h[unit]}"


def test_epsilon_is_in_the_tag_and_moves_the_bounds():
    probe = probe_of({"a": columns([0.9, 0.96, 1.0], [-0.8, -1.0, -1.0])}, group("a", 2, "tanh"))
    assert DeadUnits(epsilon=0.1).measure(probe)["units/frozen_0.1.a"].tolist() == [0.5]
    assert DeadUnits(epsilon=0.2).measure(probe)["units/frozen_0.2.a"].tolist() == [1.0]


def test_the_released_upper_bound_never_counts_a_unit():
    probe = probe_of({"a": columns([1.0, 1.0], [-1.0, -1.0])}, group("a", 2, "tanh"))
    assert DeadUnits().measure(probe)["units/frozen_0.01"].tolist() == [1.0]
    assert DeadUnits(upstream_upper_bound=True).measure(probe)["units/frozen_0.01"].tolist() == [0.5]


def test_the_total_is_a_fraction_of_units_and_each_replica_has_its_own():
    wide, narrow = torch.ones(2, 5, 6), torch.ones(2, 5, 2)
    wide[0, :, :3] = 0
    narrow[1] = 0
    values = DeadUnits().measure(probe_of({"a": wide, "b": narrow}, group("a", 6), group("b", 2)))
    assert values["units/dead.a"].tolist() == [3 / 6, 0]
    assert values["units/dead.b"].tolist() == [0, 1]
    assert values["units/dead"].tolist() == [3 / 8, 2 / 8]


def test_dead_and_frozen_layers_are_told_apart():
    features = {"a": columns([0.0, 0.0], [0.0, 1.0]), "b": columns([1.0, 1.0])}
    values = DeadUnits().measure(probe_of(features, group("a", 2, "relu"), group("b", 1, "tanh")))
    assert {tag: value.item() for tag, value in values.items()} == {
        "units/dead": 0.5,
        "units/dead.a": 0.5,
        "units/frozen_0.01": 1.0,
        "units/frozen_0.01.b": 1.0,
    }


def test_halves_of_crelu_die_apart_but_share_one_redo_score():
    z = torch.tensor([[1.0, 2.0], [3.0, -2.0]])  # two examples of two units: the first is never negative
    h = torch.relu(torch.cat((z, -z), dim=-1))[None]
    probe = probe_of({"a": h}, group("a", 2, feature_tile=2))
    assert DeadUnits().measure(probe)["units/dead"].tolist() == [1 / 4]
    assert InactiveUnits().measure(probe)["units/inactive_0.01"].tolist() == [1 / 4]
    assert DormantUnits(threshold=0.9).measure(probe)["units/dormant_0.9"].tolist() == [0]


def test_a_channel_is_dead_only_if_it_is_0_at_all_places():
    maps = torch.zeros(1, 4, 3, 2, 2)
    maps[0, 1, 0, 1, 1] = 0.5
    flat = torch.zeros(1, 4, 6)
    flat[0, 2, 3] = 1.0  # the second of three channels that flatten into two inputs each
    tokens = torch.zeros(1, 4, 5, 3)
    tokens[0, 0, 4, 2] = 1.0
    values = DeadUnits().measure(
        probe_of(
            {"maps": maps, "flat": flat, "tokens": tokens},
            group("maps", 3),
            group("flat", 3, feature_block=2),
            group("tokens", 3, axis=-1),
        )
    )
    assert [values[f"units/dead.{layer}"].item() for layer in ("maps", "flat", "tokens")] == pytest.approx([2 / 3] * 3)


def test_a_transformer_s_unit_is_frozen_if_it_is_for_every_token_of_every_image():
    tokens = torch.full((1, 3, 5, 4), -0.17)  # 3 images of 5 tokens; 4 units of an MLP block, after GELU
    tokens[0, 2, 4, 0] = 1.0
    tokens[0, :, 0, 1] = 0.5
    tokens[0, :, 1:, 2] = 0.01
    probe = probe_of({"mlp": tokens, "attention": -tokens}, group("mlp", 4, "gelu", axis=-1))
    values = DeadUnits().measure(probe)
    assert {tag: value.item() for tag, value in values.items()} == {
        "units/frozen_0.01": 2 / 4,
        "units/frozen_0.01.mlp": 2 / 4,
    }


def test_redo_scores_by_hand():
    # mean |h|: 0, 0.1, -> mean of all four is 1, so scores are 0, 0.1, 1.9, 2
    h = columns([0, 0], [0.2, 0], [-1.9, 1.9], [2, -2])
    probe = probe_of({"a": h}, group("a", 4, "tanh"))
    for threshold, dormant in ((0, 1), (0.025, 1), (0.11, 2), (1.95, 3), (2.1, 4)):
        tag = f"units/dormant_{threshold:g}"
        values = DormantUnits(threshold=threshold).measure(probe)
        assert values.keys() == {tag, f"{tag}.a"}
        assert values[tag].tolist() == [dormant / 4]


def test_a_silent_layer_is_all_dormant():
    features = {"a": torch.zeros(1, 3, 2), "b": torch.ones(1, 3, 2)}
    values = DormantUnits().measure(probe_of(features, group("a", 2), group("b", 2)))
    assert {tag: value.item() for tag, value in values.items()} == {
        "units/dormant_0.025": 0.5,
        "units/dormant_0.025.a": 1.0,
        "units/dormant_0.025.b": 0.0,
    }


def test_inactive_means_on_less_than_the_fraction():
    h = torch.zeros(1, 1000, 4)
    for unit, times in enumerate((0, 9, 10, 1000)):
        h[0, :times, unit] = 1.0
    probe = probe_of({"a": h}, group("a", 4))
    assert InactiveUnits().measure(probe)["units/inactive_0.01"].tolist() == [0.5]
    assert InactiveUnits(fraction=0.5).measure(probe)["units/inactive_0.5.a"].tolist() == [0.75]
    assert DeadUnits().measure(probe)["units/dead"].tolist() == [0.25]


class BatchNormed(nn.Module):
    """Its two units are ReLU(batch norm(x)), whose running mean is far above what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean += 100
        self.output = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.relu(self.norm(x[:, :2]))
        return self.output(h), {"hidden": h}

    def unit_groups(self):
        return (group("hidden", 2),)


def test_batch_statistics_are_those_of_the_probe():
    population = tiny_population(module=BatchNormed())
    state = initial_state(population)
    for batch_statistics, inactive in ((False, 1), (True, 0)):
        metric = InactiveUnits(probe_size=50, batch_statistics=batch_statistics)
        assert measure(population, state, [metric], task=0)["units/inactive_0.01"].tolist() == [inactive] * 2
        ranks = Ranks(probe_size=50, batch_statistics=batch_statistics)
        assert measure(population, state, [ranks], task=0)["ranks/rank"].tolist() == [2 - 2 * inactive] * 2
    assert (state["buffers"]["norm.running_mean"] == 100).all()


def test_an_architecture_without_units():
    no_layers = probe_of({"a": torch.ones(1, 3, 2)})
    silent_about_it = tiny_population(module=nn.Linear(4, 3))
    for metric in (DeadUnits(), DormantUnits(), InactiveUnits()):
        assert metric.measure(no_layers) == {}
        with pytest.raises(UserError, match=f"metrics.{type(metric).__name__} needs the hidden units, which Linear"):
            metric.check(silent_about_it)
