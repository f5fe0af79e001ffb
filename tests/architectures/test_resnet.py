"""The ResNet: torchvision's with biases and another stem, its records, features, unit groups and running statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lopbench.architectures import ResNet18
from lopbench.errors import UserError
from lopbench.keyed_random import Random
from lopbench.protocols import Problem
from lopbench.roles import head_parameters
from tests.architectures.common import REPLICAS, Values, drawn, from_fragment, inputs_of, moved, run, with_unit_at
from tests.helpers import learner_for

CIFAR100 = Problem((3, 32, 32), 100, "cross_entropy")
SMALL = Problem((2, 8, 8), 5, "cross_entropy")
BLOCKS = [f"blocks.{k}.conv{i}" for k in range(8) for i in (1, 2)]


def statistics(module: nn.Module, seed: int = 3) -> Values:
    """Stacked buffers: means about 0 and variances about 1, as some training leaves them."""
    random = Random(torch.arange(REPLICAS), torch.tensor(seed), "statistics/", torch.float64)
    found = {}
    for name, value in module.named_buffers():
        shape = tuple(value.shape)
        if name.endswith("running_mean"):
            found[name] = 0.3 * random.normals(name, shape)
        elif name.endswith("running_var"):
            found[name] = 0.5 + random.uniforms(name, shape)
        else:
            found[name] = torch.full((REPLICAS,), 4)
    return found


def one(values: Values, replica: int) -> Values:
    return {name: value[replica].clone() for name, value in values.items()}


# against torchvision's network


def torchvisions(ours: ResNet18) -> nn.Module:
    """torchvision's ResNet-18 with the published changes, and the values of ours."""
    theirs = torchvision.models.resnet18(num_classes=100)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1)
    theirs.maxpool = nn.Identity()
    for layer in theirs.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    values = ours.state_dict()
    pairs = zip(map(their_name, values), values.values(), strict=True)
    theirs.double().load_state_dict(dict(pairs))
    return theirs


def their_name(name: str) -> str:
    """ "blocks.3.shortcut.norm.bias" -> "layer2.1.downsample.1.bias"."""
    for ours, theirs in (
        ("stem_norm", "bn1"),
        ("stem", "conv1"),
        ("head", "fc"),
        ("shortcut.conv", "downsample.0"),
        ("shortcut.norm", "downsample.1"),
        ("norm", "bn"),
    ):
        name = name.replace(ours, theirs)
    if not name.startswith("blocks."):
        return name
    _, block, rest = name.split(".", 2)
    return f"layer{int(block) // 2 + 1}.{int(block) % 2}.{rest}"


def test_outputs_and_running_statistics_are_torchvisions() -> None:
    """At the published size, with values that are nowhere 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    ours = ResNet18(CIFAR100).double()
    for name, value in ours.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, dtype=torch.float64, generator=generator)
            value.copy_(noise + 0.5 if name.endswith("running_var") else value + 0.1 * (noise - 0.5))
    theirs = torchvisions(ours)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=generator)
    for training in (False, True, False):  # the statistics of the second pass show in the third
        ours.train(training)
        theirs.train(training)
        torch.testing.assert_close(ours(x)[0], theirs(x))
    found = {their_name(name): value for name, value in ours.named_buffers()}
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(found[name], value)
    assert found["bn1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    ("fragment", "count", "units"), [("resnet18", 11_224_932, 3904), ("resnet18_small", 714_276, 976)]
)
def test_published_size_and_a_sixteenth_of_it(fragment: str, count: int, units: int) -> None:
    with torch.device("meta"):
        module = from_fragment(fragment, CIFAR100)
    assert isinstance(module, ResNet18) and sum(p.numel() for p in module.parameters()) == count
    groups = module.unit_groups()
    assert (len(groups), sum(group.units for group in groups)) == (17, units)
    assert head_parameters(module) == ("head.weight", "head.bias")


# features and initial values


def test_features_are_the_activations_and_the_last_one_is_what_the_head_reads() -> None:
    module = ResNet18(Problem((3, 32, 32), 5, "cross_entropy"), width=2).double()
    outputs, features = module(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    channels, sides = (2, 2, 4, 4, 8, 8, 16, 16), (32, 32, 16, 16, 8, 8, 4, 4)
    expected = {"stem": (2, 2, 32, 32)}
    for k, (c, side) in enumerate(zip(channels, sides, strict=True)):
        expected |= {f"blocks.{k}.conv1": (2, c, side, side), f"blocks.{k}.conv2": (2, c, side, side)}
    expected["blocks.7.conv2"] = (2, 16)
    assert {name: tuple(feature.shape) for name, feature in features.items()} == expected
    assert list(features) == ["stem", *BLOCKS] == [group.feature for group in module.unit_groups()]
    assert all((feature >= 0).all() and feature.any() for feature in features.values())
    torch.testing.assert_close(module.head(features["blocks.7.conv2"]), outputs)


def test_initial_records() -> None:
    module = ResNet18(SMALL, width=3)
    parameters = dict(module.named_parameters())
    for name, record in module.initial_records().items():
        owner, kind = name.rpartition(".")[::2]
        if kind == "weight" and "norm" not in owner:
            variance = (1 if owner == "head" else 2) / math.prod(parameters[name].shape[1:])
            assert (record.kind, record.mean, record.scale) == ("normal", 0, pytest.approx(math.sqrt(variance))), name
        else:
            assert (record.mean, record.scale) == (float(kind == "weight"), 0), name


# replicas, training and evaluation


def trained_once(module: nn.Module, values: Values, x: Tensor) -> tuple[Values, Values, Values]:
    """Outputs and features, gradients of the parameters, and buffers after a pass in training."""

    def one_replica(parameters: Values, buffers: Values, x: Tensor) -> tuple[Values, Values, Values]:
        def loss(parameters: Values) -> tuple[Tensor, Any]:
            own = {name: value.clone() for name, value in buffers.items()}
            outputs, features = functional_call(module, {**parameters, **own}, (x,))
            return outputs.square().mean(), ({"outputs": outputs, **features}, own)

        gradients, (shown, own) = grad(loss, has_aux=True)(parameters)
        return shown, gradients, own

    buffers = {name: values[name] for name, _ in module.named_buffers()}
    parameters = {name: values[name] for name, _ in module.named_parameters()}
    return vmap(one_replica)(parameters, buffers, x)


def test_two_replicas_side_by_side_are_each_one_alone() -> None:
    module = ResNet18(SMALL, width=3)
    values, x = {**moved(module), **statistics(module)}, inputs_of(SMALL, examples=4)
    shown, gradients, buffers = trained_once(module, values, x)
    for r in range(REPLICAS):
        alone = ResNet18(SMALL, width=3).double()
        alone.load_state_dict(one(values, r))
        outputs, features = alone(x[r])
        outputs.square().mean().backward()
        for name, value in {"outputs": outputs, **features}.items():
            torch.testing.assert_close(shown[name][r], value)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(gradients[name][r], parameter.grad)
        for name, value in alone.named_buffers():
            torch.testing.assert_close(buffers[name][r], value)
            assert not torch.equal(value, values[name][r]), name


def test_in_evaluation_an_image_s_outputs_do_not_depend_on_the_batch() -> None:
    module = ResNet18(SMALL, width=3)
    values, x = {**moved(module), **statistics(module)}, inputs_of(SMALL)
    alike: list[bool] = []
    for training in (False, True):
        module.train(training)
        together, first = (trained_once(module, values, inputs)[0]["outputs"] for inputs in (x, x[:, :2]))
        alike.append(torch.allclose(together[:, :2], first))
    assert alike == [True, False]


# unit groups


@pytest.mark.parametrize("name", ["stem", "blocks.0.conv2", "blocks.2.conv1", "blocks.7.conv2"])
def test_a_replaced_unit_s_entries_and_no_others_are_touched(name: str) -> None:
    module = ResNet18(SMALL, width=3)
    groups = {group.name: group for group in module.unit_groups()}
    norm = {"stem": "stem_norm"}.get(name, name.replace("conv", "norm"))
    reader = {"stem": "blocks.0.conv1", "blocks.7.conv2": "head"}.get(name) or [*BLOCKS][BLOCKS.index(name) + 1]
    learner = learner_for(module, parameters=moved(module), buffers=statistics(module))
    old = {**learner.parameters, **learner.buffers}
    units = torch.zeros(REPLICAS, groups[name].units, dtype=torch.bool)
    units[1, 2] = True
    learner.replace_units(groups[name], units)

    touched = {**learner.parameters, **learner.buffers}
    changed = {key for key, value in touched.items() if not torch.equal(value, old[key])}
    firsts = {f"{name}.bias": 0, f"{norm}.weight": 1, f"{norm}.bias": 0}
    firsts |= {f"{norm}.running_mean": 0, f"{norm}.running_var": 1}
    assert changed == {f"{name}.weight", f"{reader}.weight", *firsts}
    for key in changed:
        column = (slice(None), 2) if key == f"{reader}.weight" else (2,)
        mine, others = touched[key][1][column], touched[key].clone()
        others[(1, *column)] = old[key][(1, *column)]
        assert torch.equal(others, old[key]), key
        if key == f"{name}.weight":
            random = Random(learner.seeds, learner.clock.step, "strategies.0/", torch.float64)
            record = module.initial_records()[key]
            drawn = record.draw(random, f"reinitialize/{key}", tuple(old[key].shape[1:]))
            assert torch.equal(mine, drawn[1, 2])
        else:
            assert torch.equal(mine, torch.full_like(mine, firsts.get(key, 0))), key


def test_outgoing_weights_of_0_silence_the_inner_units_and_not_those_that_shortcuts_pass_on() -> None:
    module = ResNet18(SMALL, width=3).eval()
    values, x = {**moved(module), **statistics(module)}, inputs_of(SMALL)
    silenced = {}
    for group in module.unit_groups():
        silent = with_unit_at(values, group, 1, group.readers, 0.0)
        another = with_unit_at(silent, group, 1, (group.norm_bias,), 3.0)
        silenced[group.name] = torch.allclose(run(module, silent, x)[0], run(module, another, x)[0])
    inner = {f"blocks.{k}.conv1" for k in range(8)}
    assert {name for name, silent in silenced.items() if silent} == inner | {"blocks.7.conv2"}


# configuration


def test_the_text_of_a_module_shows_its_width() -> None:
    texts = [repr(ResNet18(SMALL, width=width)) for width in (2, 3)]
    assert texts[0] != texts[1] == repr(ResNet18(SMALL, width=3))


@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        (SMALL, {"width": 0}, "architectures.ResNet18.width is 0: it must be an integer at least 1."),
        (
            Problem((784,), 10, "cross_entropy"),
            {},
            "architectures.ResNet18 takes images [channels, height, width], but the stream's examples have the shape "
            "[784]: choose a source with channels, such as sources.CIFAR10, or architectures.MLP.",
        ),
    ],
)
def test_wrong_values_are_refused(problem: Problem, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ResNet18(problem, **fields)
    assert str(error.value) == message


def test_first_values_are_drawn_from_the_records() -> None:
    weight = drawn(ResNet18(SMALL, width=8), replicas=3)["blocks.2.conv1.weight"]
    assert weight.shape == (3, 16, 8, 3, 3)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 72), rel=0.05)
