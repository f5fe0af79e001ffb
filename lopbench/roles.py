"""Roles of parameters that regularisers, resets and metrics distinguish: normalisation, head.

They are read off the module, so that a module from elsewhere has them too:

    norm   whatever is owned by a module whose class, or whose own name, contains "norm"
           (`nn.LayerNorm`, `nn.BatchNorm2d`, a `ReparameterizedLayerNorm`, a list `norm.0`, `norm.1`)
    head   the child module `module.head`, or the one whose path is the string `module.head`;
           without that attribute, the last `nn.Linear` of the module
"""

from __future__ import annotations

from torch import nn

from lopbench.errors import require

#: what a regulariser acts on: every parameter, or all weights and biases but those of normalisations
SCOPES = ("all", "without_norms")


def norm_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of normalisations, in the module's order."""
    prefixes = norm_prefixes(module)
    return tuple(name for name, _ in module.named_parameters() if name.startswith(prefixes))


def norm_prefixes(module: nn.Module) -> tuple[str, ...]:
    """What the names of a normalisation's parameters and buffers begin with, e.g. ("norm.0.", "norm.1.")."""
    return tuple(path + "." for path, owner in module.named_modules() if path and _is_norm(path, owner))


def _is_norm(path: str, owner: nn.Module) -> bool:
    own_name = path.rpartition(".")[2]
    return "norm" in type(owner).__name__.lower() or "norm" in own_name.lower()


def head_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of the last layer; `UserError` if the module does not show which it is."""
    paths = {path: part for path, part in module.named_modules() if path}
    declared = getattr(module, "head", None)
    if declared is None:
        heads = [path for path, part in paths.items() if isinstance(part, nn.Linear)]
    else:
        heads = [path for path, part in paths.items() if part is declared or path == declared]
    names = tuple(name for name, _ in module.named_parameters() if heads and name.startswith(heads[-1] + "."))
    require(
        bool(names),
        f"{type(module).__name__} does not show which layer is its head: "
        "set its attribute `head` to that layer, or to the path of it.",
    )
    return names


def in_scope(module: nn.Module, scope: str) -> tuple[str, ...]:
    """The names of the parameters that a regulariser of this scope (one of `SCOPES`) acts on."""
    norms = norm_parameters(module) if scope == "without_norms" else ()
    return tuple(name for name, _ in module.named_parameters() if name not in norms)
