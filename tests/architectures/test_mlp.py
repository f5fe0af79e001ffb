"""The MLP: sizes, initial records, unit groups, normalisation, and the transforms it must run under."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from lopbench.architectures import MLP, Linear
from lopbench.architectures.layers import ACTIVATIONS, LayerNorm
from lopbench.errors import UserError
from lopbench.initializers import GAINS, SCHEMES
from lopbench.keyed_random import Random
from lopbench.population import initial_records
from lopbench.protocols import Problem
from lopbench.units import UnitGroup, link_mask, unit_mean

MNIST = Problem((28, 28), 10, "cross_entropy")
SCR = Problem((20,), 1, "squared_error")
SMALL = Problem((2, 3), 4, "cross_entropy")
REPLICAS = 2

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "crelu": {"crelu": True},
    "pre norm": {"layer_norm": "pre"},
    "post norm": {"layer_norm": "post"},
    "reparameterised norm": {"layer_norm": "post", "layer_norm_reparameterized": True},
    "crelu, pre norm": {"crelu": True, "layer_norm": "pre"},
    "crelu, post norm": {"crelu": True, "layer_norm": "post"},
    "pre skip": {"skip": "pre"},
    "post skip": {"skip": "post"},
    "crelu, post norm, post skip": {"crelu": True, "layer_norm": "post", "skip": "post"},
}


def drawn(module: torch.nn.Module, seed: int = 0, replicas: int = REPLICAS) -> dict[str, Tensor]:
    """First values `[R, *shape]` of every parameter, from the records."""
    random = Random(torch.arange(replicas) + seed, torch.tensor(0), "initial/", torch.float64)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    return {name: record.draw(random, name, shapes[name]) for name, record in initial_records(module).items()}


def moved(module: torch.nn.Module) -> dict[str, Tensor]:
    """First values with noise on all of them, so that no bias is 0 and no scale 1."""
    random = Random(torch.arange(REPLICAS), torch.tensor(1), "noise/", torch.float64)
    return {name: value + 0.3 * random.normals(name, tuple(value.shape[1:])) for name, value in drawn(module).items()}


def run(module: torch.nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return vmap(lambda p, x: functional_call(module, p, (x,)))(parameters, inputs)


def layer(parameters: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    """A linear layer written out."""
    return torch.einsum("rbi,roi->rbo", h, parameters[f"{name}.weight"]) + parameters[f"{name}.bias"][:, None]


def inputs_of(problem: Problem, examples: int = 5) -> Tensor:
    random = Random(torch.arange(REPLICAS), torch.tensor(2), "inputs/", torch.float64)
    return random.normals("x", (examples, *problem.input_shape))


# sizes


@pytest.mark.parametrize(
    ("problem", "fields", "count"),
    [
        (MNIST, {"width": 10}, 8_180),
        (MNIST, {"width": 100}, 99_710),
        (MNIST, {"width": 1000}, 2_797_010),
        (MNIST, {"width": 100, "layer_norm": "post"}, 99_710 + 600),
        (MNIST, {"width": 100, "depth": 2}, 89_610),
        (MNIST, {"width": 100, "depth": 2, "crelu": True, "crelu_fraction_removed": 0.09}, 89_918),
        (MNIST, {"width": 2000}, 9_588_000 + 6_010),
        (SCR, {"width": 5, "depth": 1}, 5 * 21 + 6),
    ],
)
def test_published_parameter_counts(problem: Problem, fields: dict[str, Any], count: int) -> None:
    assert sum(p.numel() for p in MLP(problem, **fields).parameters()) == count


def test_names_and_features() -> None:
    module = MLP(SMALL, width=6, depth=2, layer_norm="post")
    layers = ["hidden.0", "hidden.1", "norm.0", "norm.1", "output"]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(dict(module.named_parameters())) == names
    outputs, features = run(module, moved(module), inputs_of(SMALL))
    assert outputs.shape == (REPLICAS, 5, 4)
    assert [(name, feature.shape) for name, feature in features.items()] == [
        ("hidden.0", (REPLICAS, 5, 6)),
        ("hidden.1", (REPLICAS, 5, 6)),
    ]


def test_linear() -> None:
    module = Linear(SCR)
    assert [(name, p.shape) for name, p in module.named_parameters()] == [
        ("output.weight", (1, 20)),
        ("output.bias", (1,)),
    ]
    weight = drawn(module, replicas=2000)["output.weight"]
    assert math.sqrt(3 / 20) * 0.999 < weight.abs().max() < math.sqrt(3 / 20)
    assert not module.initial_records()["output.bias"].scale
    assert module.unit_groups() == ()
    x, parameters = inputs_of(SCR), moved(module)
    outputs, features = run(module, parameters, x)
    torch.testing.assert_close(outputs, layer(parameters, "output", x))
    assert not features


# initial values


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_swr_draws_every_layer_with_the_activations_gain(activation: str) -> None:
    records = MLP(MNIST, activation=activation).initial_records()
    gain = {"gelu": 1.0, "silu": 1.0, "elu": math.sqrt(2)}.get(activation) or torch.nn.init.calculate_gain(activation)
    for layer, fan_in in (("hidden.0", 784), ("hidden.1", 100), ("hidden.2", 100), ("output", 100)):
        weight, bias = records[f"{layer}.weight"], records[f"{layer}.bias"]
        assert (weight.kind, weight.mean, weight.scale) == ("normal", 0, pytest.approx(gain / math.sqrt(fan_in)))
        assert (bias.mean, bias.scale) == (0, 0)


def test_slowly_changing_regression_draws_uniformly_and_the_output_with_gain_1() -> None:
    gains = {"gain": "relu", "output_gain": "linear"}
    module = MLP(SCR, width=5, depth=1, activation="silu", initialization="kaiming_uniform", **gains)
    records = module.initial_records()
    hidden, output = records["hidden.0.weight"], records["output.weight"]
    assert (hidden.kind, hidden.scale) == ("uniform", pytest.approx(math.sqrt(2) * math.sqrt(3 / 20)))
    assert (output.kind, output.scale) == ("uniform", pytest.approx(math.sqrt(3 / 5)))


@pytest.mark.parametrize(
    ("initialization", "gains", "kind", "scales", "bias_scales"),
    [
        ("default", {}, "uniform", [1 / 28, 0.1, 0.1], [1 / 28, 0.1, 0.1]),
        ("kaiming_normal", {"gain": "relu"}, "normal", [math.sqrt(2 / i) for i in (784, 100, 100)], [0, 0, 0]),
        ("kaiming_uniform", {"gain": "relu"}, "uniform", [math.sqrt(6 / i) for i in (784, 100, 100)], [0, 0, 0]),
        (
            "xavier_normal",
            {"gain": "relu", "output_gain": "linear"},
            "normal",
            [math.sqrt(2 * 2 / 884), math.sqrt(2 * 2 / 200), math.sqrt(2 / 110)],
            [0, 0, 0],
        ),
        (
            "xavier_uniform",
            {"gain": "relu", "output_gain": "linear"},
            "uniform",
            [math.sqrt(2 * 6 / 884), math.sqrt(2 * 6 / 200), math.sqrt(6 / 110)],
            [0, 0, 0],
        ),
    ],
)
def test_l2_inits_schemes(
    initialization: str, gains: dict[str, str], kind: str, scales: list[float], bias_scales: list[float]
) -> None:
    records = MLP(MNIST, depth=2, initialization=initialization, **gains).initial_records()
    layers = ("hidden.0", "hidden.1", "output")
    assert {records[f"{name}.weight"].kind for name in layers} == {kind}
    assert [records[f"{name}.weight"].scale for name in layers] == pytest.approx(scales)
    assert [records[f"{name}.bias"].scale for name in layers] == pytest.approx(bias_scales)


@pytest.mark.parametrize("initialization", SCHEMES)
def test_draws_have_the_records_moments(initialization: str) -> None:
    problem = Problem((50,), 40, "cross_entropy")
    module = MLP(problem, width=40, depth=2, initialization=initialization, layer_norm="post")
    for name, values in drawn(module, replicas=200).items():
        record = module.initial_records()[name]
        std = record.scale / (math.sqrt(3) if record.kind == "uniform" else 1)
        error = 5 / math.sqrt(values.numel())
        assert values.mean().item() == pytest.approx(record.mean, abs=error * std + 1e-12), name
        assert values.std().item() == pytest.approx(std, rel=error), name


def test_records_of_norms_keep_the_scale_at_1() -> None:
    for reparameterized, weight in ((False, 1.0), (True, 0.0)):
        records = MLP(SMALL, layer_norm="pre", layer_norm_reparameterized=reparameterized).initial_records()
        assert (records["norm.1.weight"].mean, records["norm.1.weight"].scale) == (weight, 0)
        assert (records["norm.1.bias"].mean, records["norm.1.bias"].scale) == (0, 0)


# unit groups


def groups_of(module: MLP) -> list[UnitGroup]:
    groups = list(module.unit_groups())
    assert [g.feature for g in groups] == [f"hidden.{k}" for k in range(module.depth)]
    return groups


def under(parameters: dict[str, Tensor], group: UnitGroup, links: Any, value: float, unit: int) -> dict[str, Tensor]:
    """The parameters with those of one unit, under each link, set to `value`."""
    chosen = torch.zeros(REPLICAS, group.units, dtype=torch.bool)
    chosen[:, unit] = True
    changed = dict(parameters)
    for link in links:
        old = changed[link.parameter]
        changed[link.parameter] = old.masked_fill(link_mask(group, link, chosen, old), value)
    return changed


@pytest.mark.parametrize("variant", ["plain", "crelu"])
def test_a_unit_without_outgoing_weights_has_no_influence(variant: str) -> None:
    module = MLP(SMALL, width=6, **VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    for group, unit in itertools.product(groups_of(module), (0, 2)):
        silent = under(parameters, group, group.readers, 0.0, unit)
        another = under(silent, group, (group.weight, group.bias), 3.0, unit)
        before, after = run(module, silent, x), run(module, another, x)
        torch.testing.assert_close(before[0], after[0])
        assert not torch.allclose(before[1][group.feature], after[1][group.feature])
        assert not torch.allclose(run(module, parameters, x)[0], before[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_unit_shows_in_its_own_places_of_the_feature_only(variant: str) -> None:
    module = MLP(SMALL, width=6, **VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    for k, group in enumerate(groups_of(module)):
        features = run(module, parameters, x)[1]
        shown = unit_mean(features[group.feature], group.feature_axis, group.units, group.feature_tile)
        assert shown.shape == (REPLICAS, module.units)
        links = (group.weight, group.bias)
        if module.layer_norm == "pre":  # its statistics change all units; the scale and shift are each unit's own
            links = (group.norm_weight, group.norm_bias)
        changed = run(module, under(parameters, group, links, 0.7, 1), x)[1][group.feature]
        differs = (changed != features[group.feature]).flatten(0, 1).any(dim=0).nonzero().flatten().tolist()
        assert differs == ([1, 1 + group.units] if module.crelu else [1]), f"layer {k}"


@pytest.mark.parametrize("variant", [name for name, fields in VARIANTS.items() if fields.get("layer_norm") == "post"])
def test_a_norms_scale_and_shift_of_a_unit_lie_where_its_readers_do(variant: str) -> None:
    """A unit scaled and shifted to 0 is the same to the readers as outgoing weights of 0."""
    module = MLP(SMALL, width=6, **VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    for group in groups_of(module):
        off = -1.0 if module.norm[0].reparameterized else 0.0
        hidden = under(parameters, group, [group.norm_weight], off, 1)
        hidden = under(hidden, group, [group.norm_bias], 0.0, 1)
        unread = under(parameters, group, group.readers, 0.0, 1)
        torch.testing.assert_close(run(module, hidden, x)[0], run(module, unread, x)[0])


def test_groups_name_what_feeds_and_reads_them() -> None:
    first, last = MLP(SMALL, width=6, depth=2, layer_norm="post").unit_groups()
    assert (first.weight.parameter, first.bias.parameter) == ("hidden.0.weight", "hidden.0.bias")
    assert [link.parameter for link in first.readers] == ["hidden.1.weight"]
    assert [link.parameter for link in last.readers] == ["output.weight"]
    assert (first.norm_weight.parameter, last.norm_bias.parameter) == ("norm.0.weight", "norm.1.bias")
    assert MLP(SMALL, width=6).unit_groups()[0].norm_weight is None


# the forward pass


@pytest.mark.parametrize("reparameterized", [False, True])
def test_layer_norm_is_torchs(reparameterized: bool) -> None:
    norm, x = LayerNorm(7, reparameterized).double(), inputs_of(Problem((7,), 1, "squared_error"))[0]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, 7))
        norm.bias.copy_(torch.linspace(2, 3, 7))
    scale = 1 + norm.weight if reparameterized else norm.weight
    expected = torch.nn.functional.layer_norm(x, (7,), scale, norm.bias, eps=1e-6 if reparameterized else 1e-5)
    torch.testing.assert_close(norm(x), expected)


def test_skip_connections_sum_the_activations() -> None:
    """Written out for three layers, before and after the activation."""
    x = inputs_of(SMALL)
    for side in ("pre", "post"):
        module = MLP(SMALL, width=6, activation="tanh", skip=side)
        parameters = moved(module)
        h = torch.tanh(layer(parameters, "hidden.0", x.flatten(2)))
        for name in ("hidden.1", "hidden.2"):
            z = layer(parameters, name, h)
            h = torch.tanh(z + h) if side == "pre" else torch.tanh(z) + h
        torch.testing.assert_close(run(module, parameters, x)[0], layer(parameters, "output", h))


def test_runs_under_vmap_and_grad_and_compiled() -> None:
    module = MLP(SMALL, width=6, crelu=True, layer_norm="post", skip="post")
    parameters, x = moved(module), inputs_of(SMALL)

    def gradients(parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        return vmap(grad(lambda p, x: functional_call(module, p, (x,))[0].square().mean()))(parameters, x)

    eager, compiled = gradients(parameters, x), torch.compile(gradients, fullgraph=True, dynamic=False)(parameters, x)
    for r in range(REPLICAS):
        alone = {name: value[r].clone().requires_grad_() for name, value in parameters.items()}
        functional_call(module, alone, (x[r],))[0].square().mean().backward()
        for name in parameters:
            torch.testing.assert_close(eager[name][r], alone[name].grad)
            torch.testing.assert_close(compiled[name][r], alone[name].grad)


# configuration


def test_the_text_of_a_module_shows_its_whole_configuration() -> None:
    """Two modules with the same text, and the same records, are taken to be the same architecture."""
    choices: list[dict[str, Any]] = [
        *({}, {"width": 8}, {"depth": 2}, {"activation": "tanh"}, {"skip": "pre"}, {"skip": "post"}),
        *({"initialization": "default"}, {"gain": "tanh"}, {"output_gain": "tanh"}),
        *({"layer_norm": "pre"}, {"layer_norm": "post"}, {"layer_norm": "post", "layer_norm_reparameterized": True}),
        *({"layer_norm": "post", "layer_norm_epsilon": 1e-3}, {"crelu": True}),
        {"crelu": True, "crelu_fraction_removed": 0.2},
    ]
    texts = [repr(MLP(SMALL, **{"width": 6, **fields})) for fields in choices]
    assert len(set(texts)) == len(choices)
    assert repr(MLP(SMALL, width=6)) == texts[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "architectures.MLP.width is 0: it must be an integer at least 1."),
        ({"width": 2.5}, "architectures.MLP.width is 2.5: it must be an integer at least 1."),
        ({"depth": "3"}, "architectures.MLP.depth is '3': it must be an integer at least 1."),
        (
            {"activation": "rellu"},
            f"architectures.MLP.activation is 'rellu': it must be one of {', '.join(ACTIVATIONS)}."
            " Did you mean relu or elu or gelu?",
        ),
        (
            {"initialization": "kaiming"},
            f"architectures.MLP.initialization is 'kaiming': it must be one of {', '.join(SCHEMES)}."
            " Did you mean kaiming_normal or kaiming_uniform?",
        ),
        ({"gain": 1.4}, f"architectures.MLP.gain is 1.4: it must be one of {', '.join(GAINS)}."),
        (
            {"gain": "relu", "initialization": "default"},
            "architectures.MLP.gain is 'relu' but initialization 'default' has no gain: leave it None.",
        ),
        (
            {"layer_norm": "before"},
            "architectures.MLP.layer_norm is 'before': it must be one of pre, post.",
        ),
        ({"skip": True}, "architectures.MLP.skip is True: it must be one of pre, post. Did you mean pre?"),
        ({"crelu": 1}, "architectures.MLP.crelu is 1: it must be True or False."),
        (
            {"crelu": True, "activation": "tanh"},
            "architectures.MLP.crelu is True with activation 'tanh': CReLU is [relu(z), relu(-z)], "
            "so activation must be 'relu'.",
        ),
        (
            {"crelu": True, "width": 7},
            "architectures.MLP.width is 7: CReLU without crelu_fraction_removed halves it, so it must be even.",
        ),
        (
            {"crelu": True, "crelu_fraction_removed": 0.9, "width": 4},
            "architectures.MLP.crelu_fraction_removed is 0.9: of a width of 4 it leaves no unit.",
        ),
        (
            {"crelu_fraction_removed": 0.1},
            "architectures.MLP.crelu_fraction_removed is 0.1 but crelu is False: bind crelu = True, or leave it None.",
        ),
        (
            {"crelu": True, "skip": "pre"},
            "architectures.MLP.skip is 'pre' with crelu: a layer's output is twice as wide as the sum it would join; "
            "use 'post'.",
        ),
        (
            {"layer_norm_reparameterized": True},
            "architectures.MLP.layer_norm is None but layer_norm_reparameterized or layer_norm_epsilon is set: "
            "bind layer_norm = 'post' or 'pre', or leave both alone.",
        ),
        (
            {"layer_norm": "post", "layer_norm_epsilon": 0},
            "architectures.MLP.layer_norm_epsilon is 0: it must be a number above 0.",
        ),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MLP(SMALL, **fields)
    assert str(error.value) == message
