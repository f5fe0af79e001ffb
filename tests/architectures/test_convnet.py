"""The convolutional networks: sizes, features, initial records, unit groups and the transforms they must run under."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from lopbench.architectures import ConvNet
from lopbench.choosing import missing_compiler
from lopbench.errors import UserError
from lopbench.initializers import SCHEMES
from lopbench.protocols import Problem
from lopbench.roles import head_parameters, kinds
from tests.architectures.common import REPLICAS, Values, drawn, from_fragment, inputs_of, moved, run, with_unit_at

L2_INIT = {"channels": (16, 16), "kernels": (5, 5), "hidden": (100, 100)}
WIDE = {**L2_INIT, "channels": (64, 64), "hidden": (400, 400)}
DEEP = {"channels": (16, 16, 16), "kernels": (5, 3, 3), "hidden": (100, 100, 100)}

SMALL = Problem((2, 12, 10), 5, "cross_entropy")  # maps of 10 x 8, pooled 5 x 4; of 4 x 3, pooled 2 x 1
SIZES: dict[str, Any] = {"channels": (6, 4), "kernels": (3, 2), "hidden": (8,)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "features before pooling": {"features_before_pooling": True},
    "crelu": {"crelu": True},
    "crelu, features before pooling": {"crelu": True, "features_before_pooling": True},
    "layer norm": {"layer_norm": True},
    "crelu, layer norm": {"crelu": True, "layer_norm": True},
}
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)


def small(**fields: Any) -> ConvNet:
    return ConvNet(SMALL, **{**SIZES, **fields})


def size(outputs: int, fields: dict[str, Any]) -> int:
    """The number of parameters on images of 3 x 32 x 32."""
    with torch.device("meta"):
        module = ConvNet(Problem((3, 32, 32), outputs, "cross_entropy"), **fields)
    return sum(p.numel() for p in module.parameters())


# sizes


@pytest.mark.parametrize(
    ("outputs", "fields", "count"),
    [
        (2, {}, 177_218),  # Nature's
        (10, L2_INIT, 58_842),
        (2, L2_INIT, 58_034),
        (100, L2_INIT, 67_932),
        (10, DEEP, 33_566),
        (10, {**L2_INIT, "crelu": True, "crelu_fraction_removed": 0.27}, 59_321),
        (2, {**L2_INIT, "crelu": True, "crelu_fraction_removed": 0.27}, 58_145),
        (100, {**L2_INIT, "crelu": True, "crelu_fraction_removed": 0.31}, 68_407),
        # a scale and a shift for each entry of 16 x 28 x 28 and 16 x 10 x 10 maps and for 2 x 100 units
        (10, {**L2_INIT, "layer_norm": True}, 58_842 + 2 * (12_544 + 1_600 + 200)),
    ],
)
def test_published_parameter_counts(outputs: int, fields: dict[str, Any], count: int) -> None:
    assert size(outputs, fields) == count


@pytest.mark.parametrize(
    ("outputs", "fields", "fraction"),
    [
        (10, L2_INIT, 0.27),
        (2, L2_INIT, 0.27),
        (100, L2_INIT, 0.31),
        (10, WIDE, 0.28),
        (2, WIDE, 0.28),
        (100, WIDE, 0.29),
        (10, DEEP, 0.28),
    ],
)
def test_published_crelu_fractions_are_the_largest_that_keep_the_size(
    outputs: int, fields: dict[str, Any], fraction: float
) -> None:
    def keeps_the_size(hundredths: int) -> bool:
        crelu = {"crelu": True, "crelu_fraction_removed": hundredths / 100}
        return size(outputs, {**fields, **crelu}) >= size(outputs, fields)

    assert next(filter(keeps_the_size, range(50, -1, -1))) / 100 == fraction


@pytest.mark.parametrize(
    ("fragment", "outputs", "count"),
    [
        ("convnet_imagenet", 2, 177_218),
        ("l2_init_cnn", 10, 58_842),
        ("l2_init_cnn_layer_norm", 10, 58_842 + 2 * (12_544 + 1_600 + 200)),
        ("l2_init_cnn_crelu", 10, 59_321),
        ("l2_init_deep_cnn", 10, 33_566),
    ],
)
def test_fragments(fragment: str, outputs: int, count: int) -> None:
    module = from_fragment(fragment, Problem((3, 32, 32), outputs, "cross_entropy"))
    assert isinstance(module, ConvNet) and sum(p.numel() for p in module.parameters()) == count
    records = module.initial_records()
    assert records["conv.0.weight"].scale == pytest.approx(math.sqrt(1 / 75))  # "default"
    assert bool(records["output.weight"].scale) == (fragment != "convnet_imagenet")


def test_names() -> None:
    layers = ["conv.0", "conv.1", "conv_norm.0", "conv_norm.1", "hidden.0", "hidden_norm.0", "output"]
    module = small(layer_norm=True)
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(dict(module.named_parameters())) == names
    assert head_parameters(module) == ("output.weight", "output.bias")
    assert {kind: len(found) for kind, found in kinds(module).items()} == {"convolutions": 4, "norms": 6}


# the forward pass


def by_hand(parameters: Values, x: torch.Tensor, norm: bool, crelu: bool) -> tuple[torch.Tensor, dict[str, Any]]:
    """One replica of `small`, written out; features before and after pooling."""
    p = parameters

    def activate(z: torch.Tensor, layer: str) -> torch.Tensor:
        if norm:
            scale, shift = (p[f"{layer.replace('.', '_norm.')}.{kind}"] for kind in ("weight", "bias"))
            assert scale.shape == z.shape[1:]
            z = functional.layer_norm(z, scale.shape, scale, shift, eps=1e-5)
        return torch.cat([z.clamp(min=0), (-z).clamp(min=0)], dim=1) if crelu else z.clamp(min=0)

    h0 = activate(functional.conv2d(x, p["conv.0.weight"], p["conv.0.bias"]), "conv.0")
    p0 = functional.max_pool2d(h0, 2, 2)
    h1 = activate(functional.conv2d(p0, p["conv.1.weight"], p["conv.1.bias"]), "conv.1")
    p1 = functional.max_pool2d(h1, 2, 2).reshape(len(x), -1)
    h2 = activate(p1 @ p["hidden.0.weight"].T + p["hidden.0.bias"], "hidden.0")
    features = {"before": {"conv.0": h0, "conv.1": h1, "hidden.0": h2}, "after": {"conv.0": p0, "conv.1": p1}}
    return h2 @ p["output.weight"].T + p["output.bias"], features


@EVERY_VARIANT
def test_outputs_and_features_written_out(variant: str) -> None:
    fields = VARIANTS[variant]
    module = small(**fields)
    parameters, x = moved(module), inputs_of(SMALL)
    outputs, features = run(module, parameters, x)
    for r in range(REPLICAS):
        alone = {name: value[r] for name, value in parameters.items()}
        expected, stages = by_hand(alone, x[r], fields.get("layer_norm", False), fields.get("crelu", False))
        torch.testing.assert_close(outputs[r], expected)
        before = fields.get("features_before_pooling", False)
        shown = stages["before"] if before else stages["before"] | stages["after"]
        assert list(features) == list(shown)
        for name, feature in shown.items():
            torch.testing.assert_close(features[name][r], feature)


def test_shapes_of_natures_features() -> None:
    _, features = ConvNet(Problem((3, 32, 32), 2, "cross_entropy"))(torch.zeros(3, 3, 32, 32))
    assert [tuple(feature.shape[1:]) for feature in features.values()] == [
        (32, 14, 14),
        (64, 6, 6),
        (512,),
        (128,),
        (128,),
    ]


def gradients(module: ConvNet, parameters: Values, x: torch.Tensor) -> Values:
    return vmap(grad(lambda p, x: functional_call(module, p, (x,))[0].square().mean()))(parameters, x)


def test_replicas_do_not_mix_and_gradients_are_each_ones_own() -> None:
    module = small(crelu=True, layer_norm=True)
    parameters, x = moved(module), inputs_of(SMALL)
    together = gradients(module, parameters, x)
    for r in range(REPLICAS):
        alone = {name: value[r].clone().requires_grad_() for name, value in parameters.items()}
        functional_call(module, alone, (x[r],))[0].square().mean().backward()
        for name in parameters:
            torch.testing.assert_close(together[name][r], alone[name].grad)


@pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler")
def test_compiles_whole() -> None:
    module = small(crelu=True, layer_norm=True)
    parameters, x = moved(module), inputs_of(SMALL)
    with torch._inductor.config.patch({"cpp.simdlen": 1}):  # scalar loops, which compile sooner
        compiled = torch.compile(gradients, fullgraph=True, dynamic=False)(module, parameters, x)
    for name, value in gradients(module, parameters, x).items():
        torch.testing.assert_close(compiled[name], value)


def test_without_linear_layers_the_output_reads_the_maps() -> None:
    module = small(hidden=())
    assert [group.name for group in module.unit_groups()] == ["conv.0", "conv.1"]
    assert [(link.parameter, link.block) for link in module.unit_groups()[1].readers] == [("output.weight", 2)]
    assert run(module, moved(module), inputs_of(SMALL))[0].shape == (REPLICAS, 5, 5)


# initial values

LAYERS = {
    "conv.0": (18, 54),
    "conv.1": (24, 16),
    "hidden.0": (8, 8),
    "output": (8, 5),
}  # fans in and out, areas counted


@pytest.mark.parametrize(
    ("initialization", "kind", "scale"),
    [
        ("default", "uniform", lambda i, o, gain: math.sqrt(1 / i)),
        ("kaiming_normal", "normal", lambda i, o, gain: gain * math.sqrt(1 / i)),
        ("kaiming_uniform", "uniform", lambda i, o, gain: gain * math.sqrt(3 / i)),
        ("xavier_normal", "normal", lambda i, o, gain: gain * math.sqrt(2 / (i + o))),
        ("xavier_uniform", "uniform", lambda i, o, gain: gain * math.sqrt(6 / (i + o))),
    ],
)
@pytest.mark.parametrize("output_gain", [None, "linear"])
def test_initial_records(initialization: str, kind: str, scale: Any, output_gain: str | None) -> None:
    if initialization == "default":
        output_gain = None
    records = small(initialization=initialization, output_gain=output_gain).initial_records()
    for layer, fans in LAYERS.items():
        gain = 1 if (layer, output_gain) == ("output", "linear") else math.sqrt(2)
        weight, bias = records[f"{layer}.weight"], records[f"{layer}.bias"]
        assert (weight.kind, weight.mean, weight.scale) == (kind, 0, pytest.approx(scale(*fans, gain))), layer
        assert (bias.mean, bias.scale) == (0, pytest.approx(weight.scale) if initialization == "default" else 0)


def test_the_default_is_what_torchs_constructors_draw() -> None:
    torch.manual_seed(0)
    module = ConvNet(Problem((3, 32, 32), 2, "cross_entropy"))
    for name, value in module.named_parameters():
        record = module.initial_records()[name]
        assert record.scale * (1 - 20 / (value.numel() + 20)) <= value.abs().max() <= record.scale * (1 + 1e-6), name


def test_norms_start_at_1_and_0_and_a_zero_head_at_0() -> None:
    records = small(layer_norm=True, zero_head=True).initial_records()
    for name, mean in (("weight", 1.0), ("bias", 0.0)):
        for owner in ("conv_norm.1", "hidden_norm.0"):
            assert (records[f"{owner}.{name}"].mean, records[f"{owner}.{name}"].scale) == (mean, 0)
    module = small(zero_head=True, initialization="kaiming_normal")
    values = drawn(module)
    assert not values["output.weight"].any() and not values["output.bias"].any() and values["hidden.0.weight"].all()
    assert not run(module, values, inputs_of(SMALL))[0].any()


# unit groups


@pytest.mark.parametrize("variant", [name for name, fields in VARIANTS.items() if "layer_norm" not in fields])
def test_a_unit_without_outgoing_weights_has_no_influence(variant: str) -> None:
    module = small(**VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    groups = module.unit_groups()
    assert [group.name for group in groups] == ["conv.0", "conv.1", "hidden.0"]
    for group in groups:
        silent = with_unit_at(parameters, group, 1, group.readers, 0.0)
        another = with_unit_at(silent, group, 1, (group.weight, group.bias), 3.0)
        torch.testing.assert_close(run(module, silent, x)[0], run(module, another, x)[0])
        assert not torch.allclose(run(module, parameters, x)[0], run(module, silent, x)[0])


@EVERY_VARIANT
def test_a_unit_shows_in_its_own_places_of_the_feature_only(variant: str) -> None:
    module = small(**VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    for group in module.unit_groups():
        # a norm's statistics let a unit change all others; its scale and shift are its own
        links = (group.norm_weight, group.norm_bias) if module.layer_norm else (group.weight, group.bias)
        changed = run(module, with_unit_at(parameters, group, 1, links, -0.7), x)[1][group.feature]
        differs = changed != run(module, parameters, x)[1][group.feature]
        places = differs.movedim(2, 0).flatten(1).any(dim=1).nonzero().flatten().tolist()
        block, tiles = group.feature_block, group.feature_tile
        assert places == [tile * group.units * block + block + k for tile in range(tiles) for k in range(block)]


@pytest.mark.parametrize("variant", ["layer norm", "crelu, layer norm"])
def test_a_unit_scaled_and_shifted_to_0_is_one_that_nobody_reads(variant: str) -> None:
    """Over maps the norm has a scale for every place: all of a channel's belong to its unit."""
    module = small(**VARIANTS[variant])
    parameters, x = moved(module), inputs_of(SMALL)
    for group in module.unit_groups():
        hidden = with_unit_at(parameters, group, 1, (group.norm_weight, group.norm_bias), 0.0)
        unread = with_unit_at(parameters, group, 1, group.readers, 0.0)
        torch.testing.assert_close(run(module, hidden, x)[0], run(module, unread, x)[0])


# configuration


def test_the_text_of_a_module_shows_its_whole_configuration() -> None:
    """Two modules with the same text, and the same records, are taken to be the same architecture."""
    choices: list[dict[str, Any]] = [
        *({}, {"channels": (6, 6)}, {"kernels": (3, 3)}, {"hidden": (8, 8)}, {"initialization": "lecun_normal"}),
        *({"initialization": "xavier_normal"}, {"initialization": "xavier_normal", "output_gain": "linear"}),
        *({"layer_norm": True}, {"crelu": True}, {"crelu": True, "crelu_fraction_removed": 0.2}),
        *({"zero_head": True}, {"features_before_pooling": True}),
    ]
    texts = [repr(small(**fields)) for fields in choices]
    assert len(set(texts)) == len(choices)
    assert repr(small(channels=[6, 4])) == texts[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"channels": 32},
            "architectures.ConvNet.channels is 32: it must be a list of integers, each at least 1.",
        ),
        (
            {"hidden": (8, 0)},
            "architectures.ConvNet.hidden is (8, 0): it must be a list of integers, each at least 1.",
        ),
        (
            {"kernels": (3,)},
            "architectures.ConvNet.kernels is (3,) and channels is (6, 4): each convolution has one entry in both, "
            "and there must be at least one.",
        ),
        (
            {"channels": (), "kernels": ()},
            "architectures.ConvNet.kernels is () and channels is (): each convolution has one entry in both, "
            "and there must be at least one.",
        ),
        (
            {"kernels": (3, 4)},
            "architectures.ConvNet.kernels is (3, 4): nothing is left of images of 12 x 10 after convolution 1 (4 x 4 "
            "on maps of 5 x 4, then pooling by 2): take fewer or smaller kernels, or larger images.",
        ),
        (
            {"initialization": "kaiming"},
            f"architectures.ConvNet.initialization is 'kaiming': it must be one of {', '.join(SCHEMES)}."
            " Did you mean kaiming_normal or kaiming_uniform?",
        ),
        (
            {"output_gain": "linear"},
            "architectures.ConvNet.output_gain is 'linear' but initialization 'default' has no gain: leave it None.",
        ),
        (
            {"output_gain": "linear", "initialization": "xavier_normal", "zero_head": True},
            "architectures.ConvNet.output_gain is 'linear' but zero_head is True, and the output layer starts at 0: "
            "leave one of them out.",
        ),
        ({"layer_norm": "pre"}, "architectures.ConvNet.layer_norm is 'pre': it must be True or False."),
        ({"crelu": 1}, "architectures.ConvNet.crelu is 1: it must be True or False."),
        (
            {"crelu": True, "hidden": (8, 7)},
            "architectures.ConvNet.hidden[1] is 7: CReLU without crelu_fraction_removed halves it, so it must be even.",
        ),
        (
            {"crelu": True, "crelu_fraction_removed": 1.0},
            "architectures.ConvNet.crelu_fraction_removed is 1.0: it must be a number at least 0 and below 1.",
        ),
        (
            {"crelu": True, "crelu_fraction_removed": 0.8},
            "architectures.ConvNet.crelu_fraction_removed is 0.8: of a width of 4 it leaves no unit.",
        ),
        (
            {"crelu_fraction_removed": 0.27},
            "architectures.ConvNet.crelu_fraction_removed is 0.27 but crelu is False: bind crelu = True, or leave it "
            "None.",
        ),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        small(**fields)
    assert str(error.value) == message


def test_inputs_that_are_no_images_are_refused() -> None:
    with pytest.raises(UserError) as error:
        ConvNet(Problem((28, 28), 10, "cross_entropy"))
    assert str(error.value) == (
        "architectures.ConvNet takes images [channels, height, width], but the stream's examples have the shape "
        "[28, 28]: choose a source with channels, such as sources.CIFAR10, or architectures.MLP."
    )
