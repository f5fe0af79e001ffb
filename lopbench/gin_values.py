"""What the bindings of a variant amount to: the last of each key wins, macros are replaced, default parts are named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lopbench.errors import UserError
from lopbench.gin_names import PLANS, as_reference, components, parameters
from lopbench.gin_text import DEEPEST, Binding, Macro, Place, Reference, at, check_size, map_value, names_in
from lopbench.registry import KINDS, nearest, parts

#: where a binding is from that is in no file
COMMAND_LINE, DEFAULT = "--gin_bindings", "a default"


def resolve(bindings: Iterable[Binding]) -> dict[str, Binding]:
    """The bindings in force, by key: later ones win, macros are replaced by their values; all checked."""
    last = {binding.key: binding for binding in bindings}
    macros = {key: binding.value for key, binding in last.items() if "." not in key}
    settings: dict[str, Binding] = {}
    known: dict[str, Any] = {}
    for key, binding in last.items():
        if "." in key and key not in PLANS:
            with at(binding.place):
                value = _expand(binding.value, macros, (key,), known)
                _check_kind(key, value)
            settings[key] = replace(binding, value=value)
    return _with_default_parts(settings)


def components_in_use(settings: Mapping[str, Binding]) -> set[str]:
    """`run`, and every part that it leads to, of what `resolve` gave."""
    seen, ahead = {"run"}, ["run"]
    while ahead:
        component = ahead.pop()
        keys = (f"{component}.{name}" for name in parameters(component))
        found = {name for key in keys if key in settings for name in names_in(settings[key].value, Reference)} - seen
        ahead += found
        seen |= found
    return seen


def _expand(value: Any, macros: Mapping[str, Any], within: tuple[str, ...], known: dict[str, Any]) -> Any:
    """`value` with macros replaced by their values; `within` are the key and the macros that led here.

    `known`: the values of macros already expanded, which all their uses share.
    """

    def leaf(item: Any) -> Any:
        if not isinstance(item, Macro):
            return item
        if item.name == "gin.REQUIRED":
            raise UserError(f"{within[-1]} must be given, as in {COMMAND_LINE}='{within[-1]} = ...'.")
        if item.name in within:
            raise UserError(f"The macro {item!r} is defined by itself.")
        if item.name not in macros:
            raise UserError(f"The macro {item!r} has no value.{nearest(item.name, macros)}")
        if len(within) > DEEPEST:
            raise UserError(f"The macro {item!r} stands behind more than {DEEPEST} others, one behind the other.")
        if item.name not in known:
            known[item.name] = _expand(macros[item.name], macros, (*within, item.name), known)
        return known[item.name]

    try:
        expanded = map_value(leaf, value)
    except TypeError:  # of the unhashable
        raise UserError("A macro that is a list or a dict can't be a key.") from None
    check_size(expanded, f"The value of {within[-1]}")
    return expanded


def _check_kind(key: str, value: Any) -> None:
    """A parameter named after a kind takes parts of that kind: `run.optimizer` one, `run.strategies` a list."""
    component, _, parameter = key.rpartition(".")
    kind = next((kind for kind in KINDS if parameter in (kind, kind.removesuffix("s"))), None)
    if kind is None:
        return
    for name in names_in(value, Reference):
        if not name.startswith(f"{kind}."):
            hint = nearest(name.split(".")[1], parts(kind))
            raise UserError(f"{key} is @{name}: it must be one of the {kind}.{hint}")
    several = parameter == kind
    items = value if several and isinstance(value, (list, tuple)) else [value]
    right = isinstance(value, (list, tuple)) == several and all(isinstance(item, Reference) for item in items)
    optional = value is None and parameters(component)[parameter].default is None
    if component == "run" and not right and not optional:
        example = f"@{kind}.{next(iter(parts(kind)), 'Name')}"
        form = f"a list of references, such as [{example}]" if several else f"a reference, such as {example}"
        raise UserError(f"{key} is {value!r}: it must be {form}.")


def _with_default_parts(settings: Mapping[str, Binding]) -> dict[str, Binding]:
    """The settings, with defaults that hold parts bound to these parts, so that gin sees them too.

    Goes through whatever `run` leads to; a parameter without a value and without a default is refused.
    """
    settings = dict(settings)
    seen, ahead = {"run"}, ["run"]
    while ahead:
        component = ahead.pop(0)
        for name, parameter in parameters(component).items():
            key = f"{component}.{name}"
            if key not in settings and parameter.default is parameter.empty:
                hint = " Is the gin file a complete run?" if component == "run" else ""
                raise UserError(f"{key} must be given, and nothing binds it.{hint}")
            default = map_value(as_reference, parameter.default)
            if key not in settings and names_in(default, Reference):
                settings[key] = Binding(key, default, Place(DEFAULT))
            found = names_in(settings[key].value, Reference) if key in settings else []
            ahead += [other for other in dict.fromkeys(found) if other not in seen]
            seen.update(found)
    return settings


def check_macros(bindings: Sequence[Binding]) -> None:
    """A macro that nothing mentions is most likely a parameter whose component was forgotten."""
    mentioned = {name for binding in bindings for name in names_in(binding.value, Macro)}
    for binding in bindings:
        if "." not in binding.key and binding.key not in mentioned:
            chosen = {"run", *(name for other in bindings for name in names_in(other.value, Reference))}
            known: dict[str, list[str]] = {}
            for component in sorted(components(), key=lambda name: name not in chosen):
                for name in parameters(component):
                    known.setdefault(name, []).append(f"{component}.{name}")
            close = [key for name in difflib.get_close_matches(binding.key, known, cutoff=0.7) for key in known[name]]
            hint = f" Did you mean {' or '.join(close[:3])}?" if close else " A parameter needs its component in front."
            raise binding.place.error(f"{binding.key} is a macro that nothing uses.{hint}")
