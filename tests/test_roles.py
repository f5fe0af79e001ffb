"""Which parameters count as those of normalisations, and which as the head."""

import pytest
from torch import nn

from lopbench.errors import UserError
from lopbench.roles import head_parameters, in_scope, norm_parameters


class Scaled(nn.Module):
    """A normalisation under a name of its own class."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(nn.Linear(2, 2).weight)


def network(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def test_norms_are_found_by_class_and_by_name():
    module = network(
        first=nn.Linear(3, 4),
        ln_1=nn.LayerNorm(4),
        norm=nn.ModuleList([Scaled()]),
        block=nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)),
    )
    assert norm_parameters(module) == ("ln_1.weight", "ln_1.bias", "norm.0.gain", "block.1.weight", "block.1.bias")
    assert in_scope(module, "without_norms") == ("first.weight", "first.bias", "block.0.weight", "block.0.bias")
    assert in_scope(module, "all") == tuple(name for name, _ in module.named_parameters())


def test_a_network_without_norms_has_none():
    assert norm_parameters(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == ()


def test_the_head_is_the_declared_one_or_else_the_last_linear_layer():
    module = network(hidden=nn.Linear(2, 2), output=nn.Linear(2, 3), after=nn.LayerNorm(3))
    assert head_parameters(module) == ("output.weight", "output.bias")
    module.head = "hidden"
    assert head_parameters(module) == ("hidden.weight", "hidden.bias")
    module = network(head=nn.Sequential(nn.Linear(2, 2)), auxiliary=nn.Linear(2, 2))
    assert head_parameters(module) == ("head.0.weight", "head.0.bias")


def test_a_module_without_a_recognisable_head_is_refused():
    with pytest.raises(UserError, match="does not show which layer is its head"):
        head_parameters(nn.Sequential(nn.Conv2d(1, 1, 3)))
