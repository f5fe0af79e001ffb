"""What names in gin mean: the components, the parameters that may be bound, and the nearest to a wrong name."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
from dataclasses import replace
from typing import Any

import gin

from lopbench import registry, sweep
from lopbench.errors import UserError
from lopbench.gin_text import Binding, Macro, Reference, at, is_text, map_value
from lopbench.registry import KINDS, nearest, parts

#: what gin calls the root; `run` in a gin file
ROOT = "lopbench.run"
#: what config.py reads itself; `run` never sees them
VARIANTS = "run.variants"
PLANS = (VARIANTS, *sweep.KEYS)
#: one more than the largest integer, as numpy and torch keep them
INTEGERS = 2**63


def components() -> list[str]:
    """Everything whose parameters can be bound: `run`, and the parts as `kind.Name`."""
    return ["run", *(f"{kind}.{name}" for kind in KINDS for name in parts(kind))]


def parameters(component: str) -> dict[str, inspect.Parameter]:
    """The parameters of a component that gin may bind."""
    runtime = _runtime(component)
    return {name: parameter for name, parameter in _signature(component).items() if name not in runtime}


def _signature(component: str) -> dict[str, inspect.Parameter]:
    if component == "run":
        return registry.signature(gin.get_configurable(ROOT))
    kind, name = component.split(".")
    return registry.signature(parts(kind)[name])


def _runtime(component: str) -> list[str]:
    """The parameters that the run passes itself."""
    if component == "run":
        return _runtime_of_root(ROOT)
    return [name for name in KINDS[component.split(".")[0]] if name in _signature(component)]


@functools.cache
def _runtime_of_root(root: str) -> list[str]:
    return [name for name in registry.signature(gin.get_configurable(root)) if not _gin_takes(f"{root}.{name}")]


def _gin_takes(key: str) -> bool:
    try:
        gin.config.ParsedBindingKey.parse(key)
    except ValueError:  # it is on the denylist
        return False
    return True


def line_for_gin(binding: Binding) -> str:
    """The binding as a line of gin, where the root has its full name."""
    return re.sub(r"^run\.", f"{ROOT}.", str(binding))


def _matches(name: str) -> list[str]:
    """The components that a name as written in gin can mean: the kind may be left out."""
    known = components()
    name = "run" if f".{ROOT}".endswith(f".{name}") else name
    return [name] if name in known else [full for full in known if full.endswith(f".{name}")]


def is_component(name: str) -> bool:
    return len(_matches(name)) == 1


def _full_name(name: str) -> str:
    """`run` or `kind.Name`, of a name as written in gin; `UserError` if it means nothing, or several things."""
    found = _matches(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} is ambiguous: write {' or '.join(found)}.")
    kind, _, last = name.rpartition(".")
    if elsewhere := _matches(last):
        hint = f" Did you mean {' or '.join(elsewhere)}?"
    elif kind in KINDS:
        hint = nearest(last, parts(kind))
    else:
        close = difflib.get_close_matches(last, [full.split(".")[-1] for full in components()], n=3)
        full = [match for name in close for match in _matches(name)]
        hint = f" Did you mean {' or '.join(full)}?" if full else " --list shows every part."
    raise UserError(f"There is no {name}.{hint}")


def complete(binding: Binding) -> Binding:
    """The binding with every name checked and written out in full."""
    with at(binding.place):
        value = map_value(_complete_leaf, binding.value)
        name, dot, parameter = binding.key.rpartition(".")
        if name == "sweep" and binding.key not in PLANS:
            raise UserError(f"There is no {binding.key}.{nearest(binding.key, sweep.KEYS)}")
        if not dot or name == "sweep":
            return replace(binding, value=value)
        component = _full_name(name)
        key = f"{component}.{parameter}"
        if parameter in _runtime(component) and key != VARIANTS:
            raise UserError(f"{key} is set by the run itself and can't be bound.")
        known = parameters(component)
        if parameter not in known and key != VARIANTS:
            raise UserError(f"{component} has no parameter {parameter}.{nearest(parameter, known)}")
        return Binding(key, value, binding.place)


def as_reference(value: Any) -> Any:
    """A part's class as a reference; anything else as it is."""
    if isinstance(value, type):
        for kind in KINDS:
            for name, part in parts(kind).items():
                if value is part:
                    return Reference(f"{kind}.{name}")
    return value


def _complete_leaf(value: Any) -> Any:
    if isinstance(value, (Reference, Macro)) and "/" in value.name:
        scope = value.name.rpartition("/")[0]
        raise UserError(f"{value!r} has a scope, and lopbench uses none: leave out '{scope}/'.")
    if isinstance(value, Reference):
        name = _full_name(value.name)
        if name == "run":
            raise UserError("run is the root of the configuration, and no part of it.")
        if value.called:
            raise UserError(f"Write @{name} without parentheses: the run builds its parts itself.")
        return Reference(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError("An infinite value can't be saved with the run: use None for no limit.")
    if isinstance(value, int) and not -INTEGERS <= value < INTEGERS:
        raise UserError("An integer must fit into 64 bits; a larger number is written as 1e30.")
    if isinstance(value, str) and not is_text(value):
        raise UserError(f"{value!r} can't be saved with the run: it holds half a character.")
    return value
