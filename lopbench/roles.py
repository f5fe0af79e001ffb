"""Roles of parameters that regularisers, resets and metrics distinguish: kinds of layers, and the head.

They are read off the module, so that a module from elsewhere has them too. A parameter is of one kind of layer at most:

    norms         whatever is owned by a module whose class, or whose own name, contains "norm"
                  (`nn.LayerNorm`, `nn.BatchNorm2d`, a `ReparameterizedLayerNorm`, a list `norm.0`, `norm.1`)
    attention     else, what lies in a module whose class, or whose own name, contains "attention"
    mlp           else, what lies in a module named "mlp" or "mlp_block", as in a transformer's blocks
                  (of an attention and an mlp around it the inner one decides)
    convolutions  else, weights of four axes and the biases beside them, a patch embedding's included

The head is a role beside these:

    head          the child module `module.head`, or the one whose path is the string `module.head`;
                  without that attribute, the last `nn.Linear` of the module
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lopbench.errors import require

#: what a regulariser acts on: every parameter, or all weights and biases but those of normalisations
SCOPES = ("all", "without_norms")


def kinds(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the parameters of each kind of layer, in the module's order; kinds that it lacks are left out."""
    owners, norms = dict(module.named_modules()), norm_prefixes(module)
    found: dict[str, list[str]] = {}
    for name, _ in module.named_parameters():
        kind = "norms" if name.startswith(norms) else _kind(owners, name.rpartition(".")[0])
        if kind is not None:
            found.setdefault(kind, []).append(name)
    return {kind: tuple(names) for kind, names in found.items()}


def _kind(owners: Mapping[str, nn.Module], path: str) -> str | None:
    """The kind of what the module at `path` owns, norms aside."""
    around = path
    while around:
        own_name = around.rpartition(".")[2].lower()
        if "attention" in own_name or "attention" in type(owners[around]).__name__.lower():
            return "attention"
        if own_name in ("mlp", "mlp_block"):
            return "mlp"
        around = around.rpartition(".")[0]
    weight = getattr(owners[path], "weight", None)
    return "convolutions" if isinstance(weight, Tensor) and weight.dim() == 4 else None


def norm_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of normalisations, in the module's order."""
    return kinds(module).get("norms", ())


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
