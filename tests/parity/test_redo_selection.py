"""ReDo's utilities and choice of units against the arrays of the published code."""

import pytest
import torch

from lopbench.initializers import constant
from lopbench.strategies.redo import ReDo
from lopbench.strategies.unit_utilities import unit_utility
from lopbench.units import Link, UnitGroup
from tests.helpers import Tensors, call, learner_for
from tests.parity.reference import cases

CASES = [pytest.param(config, arrays, id=name) for name, config, arrays in cases("redo_selection")]


class OneLayer(Tensors):
    """The weights that feed and read one layer of units."""

    def __init__(self, outputs: int, units: int) -> None:
        super().__init__({"incoming": (units, 2), "outgoing": (outputs, units)}, {"incoming": constant(7.0)})

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        units = self.incoming.shape[0]
        weight, readers = Link("incoming", axis=0), (Link("outgoing", axis=1),)
        return (UnitGroup("hidden", units, "hidden", 1, "relu", weight, None, readers),)


@pytest.mark.parametrize("config, arrays", CASES)
def test_utility_and_choice_are_the_published_ones(config, arrays):
    strategy = ReDo(threshold=config["threshold"], utility=config["utility"], period=1)
    stacked = {name: torch.from_numpy(values)[None] for name, values in arrays.items()}
    outgoing, features = stacked["out_weight"], stacked["features"]
    learner = learner_for(
        OneLayer(*outgoing.shape[1:]),
        strategy,
        parameters={"incoming": torch.zeros(1, outgoing.shape[2], 2), "outgoing": outgoing},
        gradients={"outgoing": stacked["out_weight_grad"]},
        features={"hidden": features},
    )
    utility = unit_utility(config["utility"], learner, learner.groups[0])
    torch.testing.assert_close(utility, stacked["utility"], rtol=1e-5, atol=0)
    call(learner, "after_update")
    drawn = (learner.parameters["incoming"][0] == 7.0).all(dim=1)
    silenced = (learner.parameters["outgoing"][0] == 0.0).all(dim=0)
    assert torch.nonzero(drawn).flatten().tolist() == sorted(arrays["reinit_units"])
    assert torch.equal(drawn, silenced)
