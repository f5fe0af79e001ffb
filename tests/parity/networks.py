"""Builds our network with the published parameters, from a case of `mlp_forward_and_metrics`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopbench.architectures import MLP
from lopbench.protocols import Problem

#: what the published network's options are called there
_OPTIONS = {
    "hidden_dim",
    "activation_function",
    "use_layer_norm",
    "preactivation_layer_norm",
    "use_reparam_ln",
    "use_skip_connections",
    "preactivation_skip_connection",
    "use_crelu",
}


def network_of(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[MLP, dict[str, Tensor]]:
    """The module for a case, and its parameters by our names, stacked as one replica `[1, *shape]`, float64."""
    unknown = set(config) - _OPTIONS
    assert not unknown, f"the case has options that this helper does not translate: {unknown}"
    parameters = {
        our_name(name.removeprefix("param/")): torch.from_numpy(value).double()[None]
        for name, value in arrays.items()
        if name.startswith("param/")
    }
    problem = Problem((arrays["x"].shape[1],), parameters["output.bias"].shape[1], "cross_entropy")
    normalised, skips = config.get("use_layer_norm", False), config.get("use_skip_connections", False)
    module = MLP(
        problem,
        width=config["hidden_dim"],
        depth=sum(name.startswith("hidden.") and name.endswith(".weight") for name in parameters),
        activation=config.get("activation_function", "relu"),
        layer_norm=_side(config.get("preactivation_layer_norm", False)) if normalised else None,
        layer_norm_reparameterized=normalised and config.get("use_reparam_ln", False),
        crelu=config.get("use_crelu", False),
        skip=_side(config.get("preactivation_skip_connection", False)) if skips else None,
    )
    assert set(parameters) == set(dict(module.named_parameters()))
    return module, parameters


def _side(before_activation: bool) -> str:
    return "pre" if before_activation else "post"


def our_name(name: str) -> str:
    """ "ff_2.weight" -> "hidden.1.weight", "ln_1.bias" -> "norm.0.bias", "out.weight" -> "output.weight"."""
    layer, kind = name.split(".")
    if layer == "out":
        return f"output.{kind}"
    prefix, number = layer.split("_")
    return f"{ {'ff': 'hidden', 'ln': 'norm'}[prefix] }.{int(number) - 1}.{kind}"
