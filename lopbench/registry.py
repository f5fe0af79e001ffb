"""The registry: kinds of parts, `register()`, the checks at definition, nearest names.

gin is the store underneath: a part of kind K named N is known to gin as `K.N`. The class itself is
left alone, so plain Python uses it like any other class.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import gin

from lopbench.errors import UserError

C = TypeVar("C", bound=type)

#: kind -> arguments that the run passes itself, which gin must therefore not bind
KINDS: dict[str, tuple[str, ...]] = {
    "sources": (),
    "augmentations": (),
    "streams": ("data", "seeds", "dtype"),
    "architectures": ("problem",),
    "optimizers": (),
    "schedules": ("steps_per_task",),
    "strategies": (),
    "metrics": (),
}

_parts: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}


def register(kind: str) -> Callable[[C], C]:
    """Make the decorated class a part of `kind`, known to gin as `kind.ClassName`.

    Refused, when the class is defined: an unknown kind, a name taken by another class, a constructor
    with `*args` or `**kwargs` (a misspelt gin binding would pass unseen), a class without a docstring.
    """
    if kind not in KINDS:
        raise UserError(f"lopbench.register({kind!r}): no such kind.{nearest(kind, KINDS)}")

    def decorate(part: C) -> C:
        known = _parts[kind].get(part.__name__)
        where = f"{kind}.{part.__name__}"
        if known is not None and (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
            raise UserError(
                f"{where} is registered already, by {known.__module__}; give {part.__module__}'s another name."
            )
        if not part.__doc__ or part.__doc__.startswith(f"{part.__name__}("):  # the latter is dataclass's own filler
            raise UserError(f"{where} needs a docstring: its first line is what --list shows.")
        for parameter in signature(part).values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                raise UserError(
                    f"{where} takes {parameter}: a misspelt gin binding would be swallowed. Name every parameter."
                )
        runtime = [name for name in KINDS[kind] if name in signature(part)]
        if known is None:
            gin.register(part, module=kind, denylist=runtime)
        _parts[kind][part.__name__] = part
        return part

    return decorate


@functools.cache  # a sweep asks for the same ones thousands of times
def signature(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor, `self` left out, or of a function, by name."""
    return dict(inspect.signature(part).parameters)


def parts(kind: str) -> dict[str, type]:
    """The registered parts of a kind, by name, sorted."""
    return dict(sorted(_parts[kind].items()))


def kind_of(part: type) -> str:
    """The kind under which a class is registered."""
    for kind, members in _parts.items():
        if members.get(part.__name__) is part:
            return kind
    raise UserError(f"{part.__module__}.{part.__qualname__} is not registered: decorate it with lopbench.register.")


def per_replica_fields(part: type) -> tuple[str, ...]:
    """The constructor parameters annotated `PerReplica`: these may differ within a population."""
    hints = get_type_hints(
        part if hasattr(part, "__dataclass_fields__") else vars(part).get("__init__", part), include_extras=True
    )
    return tuple(name for name in signature(part) if _is_per_replica(hints.get(name)))


def _is_per_replica(hint: Any) -> bool:
    return get_origin(hint) is Annotated and "per replica" in get_args(hint)[1:]


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean …?' with the closest names, or ' Known: …' when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" Known: {', '.join(names)}." if names else ""
