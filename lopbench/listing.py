"""What `--list` shows: every part by kind, with its first docstring line and its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import get_type_hints

import gin

from lopbench.gin_names import ROOT, as_reference, parameters
from lopbench.gin_text import map_value
from lopbench.registry import KINDS, parts, per_replica_fields


def describe() -> str:
    """`run` and all registered parts; a parameter marked * may differ between the replicas of a population."""
    hints = get_type_hints(gin.get_configurable(ROOT), include_extras=True)
    per_replica = [name for name, hint in hints.items() if "per replica" in getattr(hint, "__metadata__", ())]
    lines = ["Bind these in a gin file, or with --gin_bindings='kind.Name.parameter = value'."]
    lines += ["* may differ between the replicas of a population.", "", "run", *_parameters("run", per_replica)]
    for kind in KINDS:
        lines += ["", kind]
        for name, part in parts(kind).items():
            lines += [f"  {kind}.{name}: {(inspect.getdoc(part) or '').splitlines()[0]}"]
            lines += _parameters(f"{kind}.{name}", per_replica_fields(part))
    return "\n".join(lines)


def _parameters(component: str, per_replica: Collection[str]) -> list[str]:
    """One line a parameter: its name, its mark and its default."""
    return [
        f"      {name}{'*' if name in per_replica else ''}{_default(parameter.default)}"
        for name, parameter in parameters(component).items()
    ]


def _default(value: object) -> str:
    return "  (must be given)" if value is inspect.Parameter.empty else f" = {map_value(as_reference, value)!r}"
