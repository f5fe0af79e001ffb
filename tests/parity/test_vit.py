"""The vision transformer gives the published one's logits and activations, and starts from the same distributions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from lopbench.architectures import VisionTransformer
from lopbench.protocols import Problem
from tests.parity.reference import cases

CASES = pytest.mark.parametrize(
    ("name", "config", "arrays"), [pytest.param(*case, id=case[0]) for case in cases("vit_forward_and_init")]
)

#: the published names of the parameters (torchvision's, but for the MLP's layers), and ours
_OUTSIDE_BLOCKS = {
    "class_token": "class_token",
    "conv_proj": "patch_embedding",
    "encoder.pos_embedding": "positions",
    "encoder.ln": "norm",
    "heads.head": "head",
}
_IN_BLOCKS = {
    "ln_1": "norm_1",
    "self_attention.in_proj_": "attention.in_projection.",
    "self_attention.out_proj": "attention.out_projection",
    "ln_2": "norm_2",
    "mlp.ff_1": "mlp.hidden",
    "mlp.ff_2": "mlp.output",
}


def our_name(name: str) -> str:
    """Ours for a published name: "encoder.layers.encoder_layer_0.ln_1.bias" is "blocks.0.norm_1.bias"."""
    block, names = "", _OUTSIDE_BLOCKS
    if name.startswith("encoder.layers.encoder_layer_"):
        number, _, name = name.removeprefix("encoder.layers.encoder_layer_").partition(".")
        block, names = f"blocks.{number}.", _IN_BLOCKS
    (theirs,) = [known for known in names if name.startswith(known)]
    return block + names[theirs] + name.removeprefix(theirs)


def module_of(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> VisionTransformer:
    """The module for a case, in evaluation mode."""
    channels = arrays["x"].shape[1]
    problem = Problem((channels, config["image_size"], config["image_size"]), config["num_classes"], "cross_entropy")
    module = VisionTransformer(
        problem,
        patch_size=config["patch_size"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        width=config["hidden_dim"],
        mlp_width=config["mlp_dim"],
        layer_norm_reparameterized=config["reparam_ln"],
    )
    return module.eval()


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose name begins with `prefix`, by our name of what follows it."""
    return {our_name(name.removeprefix(prefix)): value for name, value in arrays.items() if name.startswith(prefix)}


@CASES
def test_logits_and_activations(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    module = module_of(config, arrays)
    parameters = {key: torch.from_numpy(value).double()[None] for key, value in under("param/", arrays).items()}
    assert set(parameters) == set(dict(module.named_parameters()))
    x = torch.from_numpy(arrays["x"]).double()
    logits, features = vmap(lambda p, x: functional_call(module, p, (x,)))(parameters, x[None])

    recorded = [f"blocks.{k}.{part}" for k in range(config["num_layers"]) for part in ("attention", "mlp")]
    assert list(features) == recorded
    assert sum(array.startswith("act") for array in arrays) == len(recorded)
    _close(logits[0], arrays["logits"], f"{name}: logits")
    for k, feature in enumerate(recorded):
        _close(features[feature][0], arrays[f"act{k}"], f"{name}: {feature}")


def _close(ours: Tensor, theirs: np.ndarray, what: str) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max(), err_msg=what)


@CASES
def test_initial_distributions(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    records, published = module_of(config, arrays).initial_records(), under("init/", arrays)
    assert set(records) == set(published)
    for parameter, text in published.items():
        record, theirs = records[parameter], json.loads(str(text))
        assert record.mean == theirs["mean"], f"{name}: {parameter}"
        assert record.scale == pytest.approx(theirs["scale"], rel=1e-6), f"{name}: {parameter}"
        if record.scale:  # else it is a constant, which the published table writes as either
            assert record.kind == theirs["dist"], f"{name}: {parameter}"
