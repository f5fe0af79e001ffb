"""A population's network as one would write it without lopbench: torch's own layers, one network, its outputs alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from lopbench.architectures.attention import SelfAttention
from lopbench.architectures.convnet import ConvNet
from lopbench.architectures.dropout import Dropout
from lopbench.architectures.mlp import MLP
from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.streams import ClassIncremental


def plain_network(population: Population) -> nn.Module:
    """The network of replica 0 with its first weights; `[B, *shape]` to the outputs of the first task."""
    module = copy.deepcopy(population.module).to(population.device)
    with torch.no_grad():
        for name, stacked in initial_state(population.part(slice(0, 1)))["parameters"].items():
            module.get_parameter(name).copy_(stacked[0])
    if isinstance(module, MLP):
        assert module.activation == "relu" and module.layer_norm is None and not module.crelu and module.skip is None
        return _sequence(list(module.hidden), module.output)
    if isinstance(module, ConvNet):
        assert not module.layer_norm and not module.crelu
        convolutions = [part for layer in module.conv for part in (layer, nn.ReLU(), nn.MaxPool2d(2))]
        return nn.Sequential(*convolutions, *_sequence(list(module.hidden), module.output))
    _with_torchs_dropout(module)
    return FirstOutputs(module, _outputs_in_first_task(population))


def _sequence(hidden: list[nn.Module], output: nn.Module) -> nn.Sequential:
    layers = [part for layer in hidden for part in (layer, nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, output)


def _outputs_in_first_task(population: Population) -> int:
    stream = population.stream
    return stream.classes_per_task if isinstance(stream, ClassIncremental) else stream.problem.outputs


class FirstOutputs(nn.Module):
    """The first outputs of a network that gives (outputs, features)."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network, self.count = network, count

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0][:, : self.count]


def _with_torchs_dropout(module: nn.Module) -> None:
    """Replace dropout that is keyed by seed and step, which only a population needs, and the attention around it."""
    for name, part in list(module.named_children()):
        if isinstance(part, SelfAttention):
            setattr(module, name, FusedAttention(part))
        elif isinstance(part, Dropout):
            setattr(module, name, nn.Dropout(part.probability))
        else:
            _with_torchs_dropout(part)


class FusedAttention(nn.Module):
    """Self-attention with torch's fused kernel, its dropout included."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads, self.dropout = attention.heads, attention.dropout.probability
        self.in_projection, self.out_projection = attention.in_projection, attention.out_projection

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.in_projection(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        heads = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_projection(heads.transpose(1, 2).flatten(2))
