"""Unit utilities by hand, on every shape in which units lie: plain, flattened, tiled, tokens, several readers."""

import pytest
import torch
from torch import Tensor

from lopbench.strategies.unit_utilities import FACTORS, mean_activation, needs_mean, unit_utility
from lopbench.units import Link, UnitGroup
from tests.helpers import Tensors, learner_for


class Group(Tensors):
    """Parameters and one unit group over them."""

    def __init__(self, group: UnitGroup, **shapes: tuple[int, ...]) -> None:
        super().__init__(shapes)
        self.group = group

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        return (self.group,)


def group_of(units: int, readers: tuple[Link, ...], axis: int = 1, **options: int) -> UnitGroup:
    return UnitGroup("g", units, "h", axis, "relu", Link("incoming", 0), None, readers, **options)


def utility(name: str, group: UnitGroup, feature: Tensor, mean: Tensor | None = None, **parameters: Tensor) -> Tensor:
    """The utility of one replica's units, given its feature and parameters without R."""
    module = Group(group, **{key: tuple(value.shape) for key, value in parameters.items()})
    gradients = {key: value[None] * 3 - 1 for key, value in parameters.items()}
    stacked = {key: value[None] for key, value in parameters.items()}
    learner = learner_for(module, parameters=stacked, gradients=gradients, features={"h": feature[None]})
    return unit_utility(name, learner, group, mean)[0]


H = torch.tensor([[1.0, 0.0, -2.0], [3.0, 0.0, 4.0]], dtype=torch.float64)  # two examples, three units
MEAN = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 3, 1)
IN = torch.tensor([[1.0, -3.0], [0.5, 0.5], [-4.0, 0.0]], dtype=torch.float64)  # mean sizes 2, 1/2, 2
OUT = torch.tensor([[1.0, 2.0, -1.0], [-3.0, 2.0, 0.0]], dtype=torch.float64)  # mean sizes 2, 2, 1/2

BY_HAND = {
    "weight": [2, 2, 0.5],
    "magnitude": [2, 2, 0.5],
    "activation": [2, 0, 3],
    "contribution": [4, 0, 1.5],
    "adaptation": [0.5, 2, 0.5],
    "zero_contribution": [2 * 1, 0, 0.5 * 3],
    "adaptable_contribution": [1, 0, 0.75],
    "feature_by_input": [0.5, 0, 1.5],
    # g = 3w - 1, so w g = 3w^2 - w: (3-1) + (27+3) = 32; (12-2)*2 = 20; (3+1) + 0 = 4
    "gradient": [32, 20, 4],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_utilities_by_hand(name):
    group = group_of(3, (Link("out", 1),))
    found = utility(name, group, H, MEAN, incoming=IN, out=OUT)
    torch.testing.assert_close(found, torch.tensor(BY_HAND[name], dtype=torch.float64))


def test_every_utility_is_tested_by_hand():
    assert set(FACTORS) | {"gradient"} == set(BY_HAND)


def test_the_gradient_utility_takes_the_absolute_value_after_the_sum():
    """w g = 3 w^2 - w: 3 - 1 and 1/12 - 1/6 have opposite signs, and cancel in part."""
    out = torch.tensor([[1.0], [1 / 6]], dtype=torch.float64)
    found = utility("gradient", group_of(1, (Link("out", 1),)), H[:, :1], incoming=IN[:1], out=out)
    torch.testing.assert_close(found, torch.tensor([2 + 3 / 36 - 1 / 6], dtype=torch.float64))


def test_random_is_a_keyed_uniform_for_each_unit():
    group = group_of(3, (Link("out", 1),))
    first, again = (utility("random", group, H, incoming=IN, out=OUT) for _ in range(2))
    assert torch.equal(first, again) and len(set(first.tolist())) == 3 and bool(((first > 0) & (first < 1)).all())


def drawn(*shape: int) -> Tensor:
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 1.7 + 1).reshape(shape)


def test_a_flattened_map_pairs_each_place_with_its_column():
    """Conv -> linear with block s: mean over a channel's s columns of (mean |column| times <|h|> at that place)."""
    feature, incoming, out = drawn(5, 3, 2, 2), drawn(3, 2, 3, 3), drawn(6, 12)
    group = group_of(3, (Link("out", 1, block=4),))
    products = out.abs().mean(dim=0) * feature.flatten(1).abs().mean(dim=0)
    found = utility("contribution", group, feature, incoming=incoming, out=out)
    torch.testing.assert_close(found, products.reshape(3, 4).mean(dim=1))
    flat = group_of(3, (Link("out", 1, block=4),), feature_block=4)  # the same map, flattened already
    assert torch.equal(utility("contribution", flat, feature.flatten(1), incoming=incoming, out=out), found)


def test_a_map_that_is_pooled_before_it_is_read_counts_by_its_mean():
    feature, out = drawn(5, 3, 4, 4), drawn(6, 12)
    found = utility("contribution", group_of(3, (Link("out", 1, block=4),)), feature, incoming=drawn(3, 2), out=out)
    expected = out.abs().reshape(6, 3, 4).mean(dim=(0, 2)) * feature.abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(found, expected)


def test_a_convolution_reads_channels_over_examples_and_places():
    feature, incoming, out = drawn(5, 3, 4, 4), drawn(3, 2, 3, 3), drawn(7, 3, 3, 3)
    mean = mean_activation(group := group_of(3, (Link("out", 1),)), feature[None])
    torch.testing.assert_close(mean[0, :, 0], feature.mean(dim=(0, 2, 3)))
    deviation = (feature - mean.reshape(3, 1, 1)).abs().mean(dim=(0, 2, 3))
    expected = out.abs().mean(dim=(0, 2, 3)) * deviation / incoming.abs().mean(dim=(1, 2, 3))
    found = utility("adaptable_contribution", group, feature, mean, incoming=incoming, out=out)
    torch.testing.assert_close(found, expected)


def test_tokens_are_averaged_like_examples():
    tokens, out = drawn(2, 5, 3), drawn(6, 3)
    found = utility("contribution", group_of(3, (Link("out", 1),), axis=-1), tokens, incoming=drawn(3, 2), out=out)
    torch.testing.assert_close(found, out.abs().mean(dim=0) * tokens.abs().mean(dim=(0, 1)))


def test_the_two_signs_of_crelu_are_two_features_of_one_unit():
    """Each sign has its own mean and its own column; a unit that never changes sign nor value does not deviate."""
    z = torch.tensor([[5.0, -1.0], [5.0, 1.0]], dtype=torch.float64)
    feature, out = torch.cat((z, -z), dim=1).relu(), drawn(3, 4)
    group = group_of(2, (Link("out", 1, tile=2),), feature_tile=2)
    columns = out.abs().mean(dim=0)
    contribution = utility("contribution", group, feature, incoming=drawn(2, 2), out=out)
    expected = (columns * feature.abs().mean(dim=0)).reshape(2, 2).mean(dim=0)
    torch.testing.assert_close(contribution, expected)
    mean = mean_activation(group, feature[None])
    assert mean.shape == (1, 2, 2)
    deviation = utility("zero_contribution", group, feature, mean, incoming=drawn(2, 2), out=out)
    assert deviation[0] == 0
    torch.testing.assert_close(deviation[1], (columns[1] + columns[3]) / 2 * 0.5)


def test_several_readers_count_by_their_entries():
    """As one reader with the outputs of both, for every utility that looks at outgoing weights."""
    one, two = OUT, drawn(3, 3)
    both = group_of(3, (Link("a", 1), Link("b", 1)))
    joined = group_of(3, (Link("out", 1),))
    for name in ("weight", "contribution", "adaptable_contribution", "gradient"):
        mean = MEAN if needs_mean(name) else None
        torch.testing.assert_close(
            utility(name, both, H, mean, incoming=IN, a=one, b=two),
            utility(name, joined, H, mean, incoming=IN, out=torch.cat((one, two))),
        )


def test_rescaling_a_unit_keeps_its_contribution_and_divides_the_adaptable_one():
    """ReLU without bias: incoming weights times c, outgoing ones over c; the function is the same."""
    x, c = drawn(8, 2), torch.tensor([0.5, 1.0, 10.0], dtype=torch.float64)
    group = group_of(3, (Link("out", 1),))

    def of(name: str, scale: Tensor) -> Tensor:
        incoming = IN * scale[:, None]
        feature = (x @ incoming.T).relu()
        mean = mean_activation(group, feature[None])
        return utility(name, group, feature, mean if needs_mean(name) else None, incoming=incoming, out=OUT / scale)

    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(of("contribution", c), of("contribution", ones))
    torch.testing.assert_close(of("adaptable_contribution", c), of("adaptable_contribution", ones) / c)


def test_a_unit_that_reads_nothing_has_a_finite_utility():
    found = utility("adaptation", group_of(3, (Link("out", 1),)), H, incoming=IN * 0, out=OUT)
    assert bool(torch.isfinite(found).all())
