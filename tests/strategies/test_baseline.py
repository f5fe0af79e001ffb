"""The baseline changes nothing."""

import torch

from lopbench.strategies.baseline import Baseline
from tests.helpers import run, tiny_population


def test_training_with_the_baseline_is_plain_training():
    plain, baseline = run(tiny_population(), 5), run(tiny_population([Baseline()]), 5)
    for name, value in plain["parameters"].items():
        assert torch.equal(value, baseline["parameters"][name])
