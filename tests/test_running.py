"""Deterministic algorithms: switched on for a population, and off again; what has none is named."""

from __future__ import annotations

import pytest
import torch

from lopbench.errors import UserError
from lopbench.running import deterministic


def test_deterministic_algorithms_are_used_within_and_not_after() -> None:
    for wanted in (True, False):
        with deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() is wanted
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_has_none_is_named() -> None:
    """A max-unpooling has none, on the CPU too."""
    pooled, where = torch.nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)
    message = r"run\.deterministic is True, but max_unpooling2d_forward_out does not have a deterministic"
    with pytest.raises(UserError, match=message), deterministic(True):
        torch.nn.functional.max_unpool2d(pooled, where, 2)
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_come_out_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="mat1"), deterministic(True):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
