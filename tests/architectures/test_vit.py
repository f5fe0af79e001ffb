"""The vision transformer: sizes, torchvision's agreement, dropout's places, unit groups, and its transforms."""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional
from torchvision.models import VisionTransformer as TorchvisionViT

from lopbench.architectures import VisionTransformer
from lopbench.choosing import missing_compiler
from lopbench.errors import UserError
from lopbench.keyed_random import uniforms
from lopbench.population import key_buffers
from lopbench.protocols import Problem
from lopbench.roles import head_parameters, kinds
from lopbench.units import feature_mean
from tests.architectures.common import REPLICAS, Values, drawn, inputs_of, moved, run, with_unit_at

CIFAR100 = Problem((3, 32, 32), 100, "cross_entropy")
SMALL = Problem((3, 8, 12), 5, "cross_entropy")  # 6 patches of 4 x 4
SIZES = {"patch_size": 4, "depth": 2, "heads": 2, "width": 8, "mlp_width": 10}
EXAMPLES = 4
PARTS = (("attention", 8), ("mlp", 10))  # the features of a block, with their sizes


def small(**fields: Any) -> VisionTransformer:
    return VisionTransformer(SMALL, **{**SIZES, **fields})


def keys(module: VisionTransformer, step: int = 7) -> Values:
    """The key buffers `[R, 2]` of replicas with seeds 3, 4, ..."""
    key = torch.tensor([[3 + replica, step] for replica in range(REPLICAS)])
    return dict.fromkeys(key_buffers(module), key)


# sizes, names


@pytest.mark.parametrize(
    ("outputs", "fields", "count"),
    [
        (100, {}, 14_279_140),
        (100, {"layer_norm_reparameterized": True}, 14_279_140),
        (10, {}, 14_279_140 - 90 * 385),
        (100, {"depth": 7}, 14_279_140 - 1_774_464),
    ],
)
def test_parameter_counts(outputs: int, fields: dict[str, Any], count: int) -> None:
    """The published count, and what a head and a block have: 12 width^2 + 13 width weights and biases in a block."""
    with torch.device("meta"):
        module = VisionTransformer(Problem((3, 32, 32), outputs, "cross_entropy"), **fields)
    assert sum(p.numel() for p in module.parameters()) == count


def test_names_and_features() -> None:
    module = small()
    names = list(dict(module.named_parameters()))
    layers = ("norm_1", "attention.in_projection", "attention.out_projection", "norm_2", "mlp.hidden", "mlp.output")
    layers = [*(f"blocks.{k}.{layer}" for k in range(2) for layer in layers), "norm", "head"]
    expected = [f"{layer}.{kind}" for layer in ["patch_embedding", *layers] for kind in ("weight", "bias")]
    assert names == ["class_token", "positions", *expected]
    assert all(name in kinds(module)["attention"] for name in names if ".attention." in name)
    assert all(name in kinds(module)["mlp"] for name in names if ".mlp." in name)
    assert all(name in kinds(module)["norms"] for name in names if "norm" in name)
    assert kinds(module)["convolutions"] == ("patch_embedding.weight", "patch_embedding.bias")
    assert head_parameters(module) == ("head.weight", "head.bias")

    outputs, features = run(module.eval(), moved(module), inputs_of(SMALL, EXAMPLES))
    assert outputs.shape == (REPLICAS, EXAMPLES, 5)
    assert [(name, feature.shape) for name, feature in features.items()] == [
        (f"blocks.{k}.{part}", (REPLICAS, EXAMPLES, 7, size)) for k in range(2) for part, size in PARTS
    ]


# initial values


def test_published_scales() -> None:
    with torch.device("meta"):
        records = VisionTransformer(CIFAR100).initial_records()
    scales = {
        "patch_embedding.weight": ("normal", 1 / math.sqrt(48)),
        "positions": ("normal", 0.02),
        "blocks.7.attention.in_projection.weight": ("uniform", 0.0625),
        "blocks.7.attention.out_projection.weight": ("uniform", 1 / math.sqrt(384)),
        "blocks.7.mlp.hidden.weight": ("uniform", 1 / math.sqrt(384)),
        "blocks.7.mlp.hidden.bias": ("uniform", 1 / math.sqrt(384)),
        "blocks.7.mlp.output.weight": ("uniform", 1 / math.sqrt(1536)),
        "blocks.7.mlp.output.bias": ("uniform", 1 / math.sqrt(1536)),
    }
    for name, (kind, scale) in scales.items():
        assert (records[name].kind, records[name].mean) == (kind, 0)
        assert records[name].scale == pytest.approx(scale)
    for name, record in records.items():  # the rest, but for other blocks: constants
        if name not in scales and not re.match(r"blocks\.[0-6]", name):
            assert record.scale == 0
            assert record.mean == float("norm" in name and name.endswith("weight"))


def test_torchvisions_mlp_initialization() -> None:
    records = small(mlp_initialization="torchvision").initial_records()
    for name in ("blocks.1.mlp.hidden", "blocks.1.mlp.output"):
        assert records[f"{name}.weight"].kind == "uniform"
        assert records[f"{name}.weight"].scale == pytest.approx(math.sqrt(6 / (8 + 10)))
        assert (records[f"{name}.bias"].kind, records[f"{name}.bias"].scale) == ("normal", 1e-6)


def test_a_new_network_gives_0_until_its_head_has_learned() -> None:
    module = small(layer_norm_reparameterized=True).eval()
    outputs, features = run(module, drawn(module), inputs_of(SMALL, EXAMPLES))
    assert not outputs.any()
    assert all(feature.any() for feature in features.values())


# the forward pass


def torchvision_name(name: str) -> str:
    """ "blocks.0.mlp.output.bias" -> "encoder.layers.encoder_layer_0.mlp.3.bias"."""
    theirs = {
        r"^patch_embedding": "conv_proj",
        r"^positions": "encoder.pos_embedding",
        r"^norm\.": "encoder.ln.",
        r"^head": "heads.head",
        r"^blocks\.": "encoder.layers.encoder_layer_",
        r"norm_": "ln_",
        r"attention\.in_projection\.": "self_attention.in_proj_",
        r"attention\.out_projection": "self_attention.out_proj",
        r"mlp\.hidden": "mlp.0",
        r"mlp\.output": "mlp.3",
    }
    for pattern, replacement in theirs.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5])
def test_torchvisions_network_with_our_weights_gives_our_outputs(epsilon: float) -> None:
    """And two replicas at once are each alone."""
    problem = Problem((3, 8, 8), 5, "cross_entropy")  # theirs takes squares
    module = VisionTransformer(problem, **SIZES, layer_norm_epsilon=epsilon).eval()
    layer_norm = functools.partial(torch.nn.LayerNorm, eps=epsilon)
    theirs = TorchvisionViT(8, 4, 2, 2, 8, 10, num_classes=5, norm_layer=layer_norm)
    theirs = theirs.double().eval()
    parameters, x = moved(module), inputs_of(problem, EXAMPLES)
    outputs, _ = run(module, parameters, x)
    for r in range(REPLICAS):
        theirs.load_state_dict({torchvision_name(name): value[r] for name, value in parameters.items()})
        torch.testing.assert_close(outputs[r], theirs(x[r]))


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.3, None), (0.3, 0.6), (0.0, 0.6), (0.3, 0.0)])
def test_training_drops_in_these_places(dropout: float, attention_dropout: float | None) -> None:
    """The whole network written out for one replica, with its masks."""
    module = small(dropout=dropout, attention_dropout=attention_dropout, layer_norm_epsilon=1e-5)
    parameters, x, key = moved(module), inputs_of(SMALL, EXAMPLES), keys(module)
    outputs, features = run(module, {**parameters, **key}, x)

    r, weights_dropout = 1, dropout if attention_dropout is None else attention_dropout
    p = {name: value[r] for name, value in parameters.items()}

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        return functional.layer_norm(h, (8,), p[f"{name}.weight"], p[f"{name}.bias"])

    def drop(name: str, h: Tensor, probability: float = dropout) -> Tensor:
        u = uniforms(torch.tensor([3 + r]), f"dropout/{name}", torch.tensor(7), h.numel()).reshape(h.shape)
        return torch.where(u < probability, 0.0, h / (1 - probability))

    patches = functional.conv2d(x[r], p["patch_embedding.weight"], p["patch_embedding.bias"], stride=4)
    tokens = torch.cat((p["class_token"].expand(EXAMPLES, 1, 8), patches.flatten(2).mT), dim=1)
    h = drop("embedding", tokens + p["positions"])
    for block in ("blocks.0", "blocks.1"):
        projected = linear(f"{block}.attention.in_projection", norm(f"{block}.norm_1", h))
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in projected.split(8, dim=-1))
        weights = torch.softmax(q @ k.mT / 2, dim=-1)
        heads = drop(f"{block}.attention.weights", weights, weights_dropout) @ v
        attended = linear(f"{block}.attention.out_projection", heads.transpose(1, 2).flatten(2))
        h = h + drop(f"{block}.attention", attended)
        hidden = functional.gelu(linear(f"{block}.mlp.hidden", norm(f"{block}.norm_2", h)))
        added = linear(f"{block}.mlp.output", drop(f"{block}.mlp.hidden", hidden))
        h = h + drop(f"{block}.mlp.output", added)
        torch.testing.assert_close(features[f"{block}.attention"][r], attended)
        torch.testing.assert_close(features[f"{block}.mlp"][r], hidden)
    torch.testing.assert_close(outputs[r], linear("head", norm("norm", h)[:, 0]))


# unit groups


def test_a_unit_without_outgoing_weights_has_no_influence() -> None:
    module = small().eval()
    parameters, x = moved(module), inputs_of(SMALL, EXAMPLES)
    assert [group.name for group in module.unit_groups()] == ["blocks.0.mlp", "blocks.1.mlp"]
    for group in module.unit_groups():
        silent = with_unit_at(parameters, group, 3, group.readers, 0.0)
        another = with_unit_at(silent, group, 3, (group.weight, group.bias), 2.0)
        before, after = run(module, silent, x), run(module, another, x)
        torch.testing.assert_close(before[0], after[0])
        assert not torch.allclose(before[0], run(module, parameters, x)[0])
        means = [feature_mean(group, features[group.feature]) for _, features in (before, after)]
        assert torch.equal(means[0] != means[1], (torch.arange(10) == 3).expand(REPLICAS, -1))


# transforms


def loss(module: VisionTransformer, values: Values, keys: Values, x: Tensor) -> Tensor:
    return functional_call(module, {**values, **keys}, (x,))[0].square().mean()


def test_gradients_of_two_replicas_are_each_ones() -> None:
    module = small(dropout=0.3)
    parameters, key, x = moved(module), keys(module), inputs_of(SMALL, EXAMPLES)
    both = vmap(grad(lambda p, key, x: loss(module, p, key, x)))(parameters, key, x)
    for r in range(REPLICAS):
        alone = {name: value[r].clone().requires_grad_() for name, value in parameters.items()}
        loss(module, alone, {name: value[r] for name, value in key.items()}, x[r]).backward()
        for name, value in alone.items():
            torch.testing.assert_close(both[name][r], value.grad)


def test_compiled_with_dropout_it_is_the_eager_one() -> None:
    """One graph for all steps, as a run compiles it."""
    missing = missing_compiler(torch.device("cpu"))
    if missing:
        pytest.skip(missing)
    module = small(depth=1, dropout=0.3)
    parameters, x = moved(module), inputs_of(SMALL, EXAMPLES)

    def step(parameters: Values, key: Values, x: Tensor) -> tuple[Values, Tensor]:
        return vmap(grad_and_value(lambda p, key, x: loss(module, p, key, x)))(parameters, key, x)

    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    losses = []
    for number in (0, 2**33):
        key = keys(module, number)
        expected = step(parameters, key, x)
        torch.testing.assert_close(compiled(parameters, key, x), expected)
        losses.append(expected[1])
    assert (losses[0] != losses[1]).all()


# configuration


def test_the_text_of_a_module_shows_its_whole_configuration() -> None:
    """Two modules with the same text, and the same records, are taken to be the same architecture."""
    choices: list[dict[str, Any]] = [
        *({}, {"patch_size": 2}, {"depth": 1}, {"heads": 4}, {"width": 6}, {"mlp_width": 5}, {"dropout": 0.2}),
        *({"attention_dropout": 0.2}, {"layer_norm_reparameterized": True}, {"layer_norm_epsilon": 1e-3}),
        {"mlp_initialization": "torchvision"},
    ]
    problems = [Problem((3, 12, 8), 5, "cross_entropy"), Problem((1, 8, 12), 5, "cross_entropy")]
    modules = [*(small(**fields) for fields in choices), *(VisionTransformer(p, **SIZES) for p in problems)]
    for one, other in itertools.combinations(modules, 2):
        assert repr(one) != repr(other)
    assert repr(small()) == repr(modules[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 3}, "patch_size is 3: it must divide both sides of the images of 8 x 12."),
        ({"patch_size": 6}, "patch_size is 6: it must divide both sides of the images of 8 x 12."),
        ({"patch_size": 0}, "patch_size is 0: it must be an integer at least 1."),
        (
            {"heads": 3},
            "width is 8 and heads is 3: each head takes an equal part of the width, so heads must divide it.",
        ),
        ({"depth": 0}, "depth is 0: it must be an integer at least 1."),
        ({"heads": 2.0}, "heads is 2.0: it must be an integer at least 1."),
        ({"width": None}, "width is None: it must be an integer at least 1."),
        ({"mlp_width": -1}, "mlp_width is -1: it must be an integer at least 1."),
        ({"dropout": 1}, "dropout is 1: it must be a number at least 0 and below 1."),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1: it must be a number at least 0 and below 1."),
        ({"layer_norm_reparameterized": 1}, "layer_norm_reparameterized is 1: it must be True or False."),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0: it must be a number above 0."),
        (
            {"mlp_initialization": "torch"},
            "mlp_initialization is 'torch': it must be one of default, torchvision. Did you mean torchvision?",
        ),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        small(**fields)
    assert str(error.value) == f"architectures.VisionTransformer.{message}"


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"architectures.VisionTransformer takes images .* \[784\]"):
        VisionTransformer(Problem((784,), 10, "cross_entropy"))
