"""Which parameters count as those of normalisations, attention, MLP blocks and convolutions, and which as the head."""

import pytest
from torch import nn

from lopbench.architectures import MLP, ResNet18, VisionTransformer
from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.roles import head_parameters, in_scope, kinds, norm_parameters


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


class SelfAttention(nn.Module):
    """An attention under the name of its class, with a norm of its own."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.values, self.query_norm = nn.Linear(2, 2, bias=False), nn.LayerNorm(2, bias=False)
        for name, part in parts.items():
            self.add_module(name, part)


def test_kinds_of_layers_are_told_by_the_innermost_module_that_tells():
    module = network(
        first=nn.Conv2d(1, 2, 3),
        mixer=SelfAttention(mlp=nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))),
        mlp_block=network(attention=nn.Linear(2, 2, bias=False), hidden=nn.Conv2d(1, 1, 1)),
        mlps=nn.Linear(2, 2),
    )
    assert kinds(module) == {
        "norms": ("mixer.query_norm.weight", "mixer.mlp.1.weight", "mixer.mlp.1.bias"),
        "attention": ("mixer.values.weight", "mlp_block.attention.weight"),
        "mlp": ("mixer.mlp.0.weight", "mixer.mlp.0.bias", "mlp_block.hidden.weight", "mlp_block.hidden.bias"),
        "convolutions": ("first.weight", "first.bias"),
    }
    assert kinds(nn.Conv2d(1, 1, 3)) == {"convolutions": ("weight", "bias")}
    assert kinds(SelfAttention()) == {"norms": ("query_norm.weight",)}  # the network itself is of no kind


IMAGES = Problem((3, 8, 8), 5, "cross_entropy")


def test_kinds_of_layers_of_the_architectures():
    transformer = VisionTransformer(IMAGES, depth=1, heads=2, width=4, mlp_width=8)
    found = kinds(transformer)
    owners = {kind: sorted({name.rpartition(".")[0] for name in names}) for kind, names in found.items()}
    assert owners == {
        "norms": ["blocks.0.norm_1", "blocks.0.norm_2", "norm"],
        "attention": ["blocks.0.attention.in_projection", "blocks.0.attention.out_projection"],
        "mlp": ["blocks.0.mlp.hidden", "blocks.0.mlp.output"],
        "convolutions": ["patch_embedding"],
    }
    rest = {name for name, _ in transformer.named_parameters()} - {name for names in found.values() for name in names}
    assert rest == {"class_token", "positions", "head.weight", "head.bias"}

    residual = kinds(ResNet18(IMAGES))
    assert residual.keys() == {"norms", "convolutions"}
    assert [len(names) for names in residual.values()] == [2 * 20, 2 * 20]  # 17 convolutions and 3 shortcuts
    assert kinds(MLP(IMAGES)) == {}


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
