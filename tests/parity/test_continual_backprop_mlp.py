"""Continual backpropagation in a perceptron against the arrays of the published code, update by update."""

import pytest

from tests.parity.generate_and_test import (
    assert_close,
    assert_parameters,
    follow,
    outputs,
    population_of,
    replaced_units,
)
from tests.parity.reference import cases

CASES = [pytest.param(config, arrays, id=name) for name, config, arrays in cases("continual_backprop_mlp")]


@pytest.mark.parametrize("config, arrays", CASES)
def test_every_update_is_the_published_one(config, arrays):
    population = population_of(config, arrays, count="eligible")
    decay = population.strategies[0].utility_decay
    for t, loss, before, choosing, after in follow(population, arrays):
        assert_close(loss, arrays[f"loss/{t}"], f"loss of update {t}")
        assert_close(outputs(population, before, arrays[f"x/{t}"]), arrays[f"logits/{t}"], f"logits before update {t}")
        for i in range(population.module.depth):
            where = f"in layer {i}, update {t}"
            memory = choosing["strategies"]["0"][f"layer{i}"]
            utility = memory["utility"][0] / (1 - decay ** memory["ages"][0])
            assert_close(utility, arrays[f"utility{i}/{t}"], f"utility {where}")
            assert replaced_units(after, i) == sorted(arrays[f"replaced{i}/{t}"]), f"units replaced {where}"
            ages = after["strategies"]["0"][f"layer{i}"]["ages"][0]
            assert ages.tolist() == arrays[f"ages{i}/{t}"].tolist(), f"ages {where}"
        assert_parameters(after, arrays, t)
