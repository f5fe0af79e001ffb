"""Selective weight reinitialisation against the arrays of the published implementation."""

import numpy as np
import pytest
import torch

from lopbench.initializers import constant
from lopbench.strategies.selective_weight_reinit import SelectiveWeightReinit
from tests.helpers import Tensors, call, learner_for
from tests.parity.reference import cases


@pytest.mark.parametrize("case, config, arrays", [pytest.param(*case, id=case[0]) for case in cases("swr")])
def test_every_call_leaves_the_published_parameters(case, config, arrays):
    means = config["means"]
    names = [f"p{j}" for j in range(len(means))]
    calls = sum(key.startswith("num_replaced/") for key in arrays)
    strategy = SelectiveWeightReinit(
        utility=config["utility"],
        pruning=config["pruning"],
        reinit_factor=config["reinit_factor"],
        utility_decay=config["decay_rate"],
        period=config["reinit_freq"],
    )
    module = Tensors(
        {name: arrays[f"{name}/0"].shape for name in names},
        {name: constant(mean) for name, mean in zip(names, means, strict=True)},
    )
    learner = learner_for(module, strategy, replicas=1)
    for t in range(1, calls + 1):
        for j, name in enumerate(names):
            learner.parameters[name] = torch.from_numpy(arrays[f"before{j}/{t}"])[None]
            learner.gradients[name] = torch.from_numpy(arrays[f"g{j}/{t}"])[None]
        learner.reported = {"reinitialized_weights": torch.zeros(1)}
        call(learner, "after_update", update=t)
        for j, name in enumerate(names):
            np.testing.assert_allclose(
                learner.parameters[name][0], arrays[f"after{j}/{t}"], rtol=1e-5, err_msg=f"{name} at {t}"
            )
        assert learner.reported["reinitialized_weights"].item() == arrays[f"num_replaced/{t}"], f"count at {t}"
