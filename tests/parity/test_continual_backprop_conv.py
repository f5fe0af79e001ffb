"""Continual backpropagation in a convolutional network against the arrays of the published code, update by update."""

import pytest

from tests.parity.generate_and_test import assert_close, assert_parameters, follow, population_of, replaced_units
from tests.parity.reference import cases

CASES = [pytest.param(config, arrays, id=name) for name, config, arrays in cases("continual_backprop_conv")]


@pytest.mark.parametrize("config, arrays", CASES)
def test_every_update_is_the_published_one(config, arrays):
    population = population_of(config, arrays, count="all")
    for t, loss, _, _, after in follow(population, arrays):
        assert_close(loss, arrays[f"loss/{t}"], f"loss of update {t}")
        for i in range(population.module.depth):
            where = f"in layer {i}, update {t}"
            assert replaced_units(after, i) == sorted(arrays[f"replaced{i}/{t}"]), f"units replaced {where}"
        assert_parameters(after, arrays, t)
