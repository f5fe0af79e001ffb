"""The one way in for gin: reads files and bindings, checks them, hands variants to gin, writes what a run saves.

lookup.py finds the files, gin_text.py knows the syntax, gin_names.py what names mean. Everything is
checked here, for every variant, before gin binds anything, so that a mistake gets one short message:
what is wrong, where, and what was probably meant. gin then only hands the bindings to the
constructors, and tells which of them were used.

    request = config.read(["swr_vit.gin"], ["run.seeds = 5"])
    for name in request.variants:
        with request.variant(name):
            ...  # call run() and build its parts

A variant's bindings are those of the gin files, then its own lines, then the command line's; a later
binding of the same key wins. Macros are replaced by their values before gin sees them.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gin

from lopbench import lookup, sweep
from lopbench.errors import UserError
from lopbench.gin_names import (
    GRID,
    PLANS,
    VARIANTS,
    as_reference,
    complete,
    components,
    is_component,
    line_for_gin,
    parameters,
)
from lopbench.gin_text import Binding, Import, Include, Macro, Place, Reference, at, map_value, names_in, parse, render
from lopbench.registry import KINDS, nearest, parts

COMMAND_LINE = "--gin_bindings"
DEFAULT = "a default"
#: how a file begins that shrinks or changes any run
OVERLAY = "# Overlay"

Used = Mapping[str, Any]  # key -> value


def import_parts() -> None:
    """Import every module that defines parts, and the root, so that gin knows them."""
    for package in ("streams", "architectures", "optimizers", "strategies", "metrics"):
        home = importlib.import_module(f"lopbench.{package}")
        for module in pkgutil.iter_modules(home.__path__):
            importlib.import_module(f"lopbench.{package}.{module.name}")
    importlib.import_module("lopbench.variants")


def read(gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()) -> Request:
    """Find, read and check the gin files, the variants and the command line's bindings.

    The name of a gin file, or of an include, is looked up as given, in the working directory, in the
    search paths, beside the including file, and among the shipped files. A module that an `import` line
    names may be installed, or lie in the working directory, a search path, or beside the gin file.
    Raises `UserError` at the first mistake.
    """
    if not gin_files:
        raise UserError("Name a gin file: --gin_file=NAME.gin.")
    files = [lookup.find(name, search_paths).path for name in gin_files]
    import_parts()  # slow, so after the first thing that may be wrong
    reader = _Reader(search_paths)
    base = [binding for name in gin_files for binding in reader.file(name)]
    last = [binding for line in bindings for binding in reader.text(line, COMMAND_LINE)]
    plans = {binding.key: binding for binding in [*base, *last] if binding.key in PLANS}
    variants = dict[str, tuple[str, ...]]({files[0].stem: ()})
    if VARIANTS in plans:
        variants = _checked_variants(plans[VARIANTS])
    own = {name: reader.variant(name, lines) for name, lines in variants.items()}
    if GRID in plans:
        _check_not_swept(plans[GRID], [*last, *(binding for found in own.values() for binding in found)])
        variants = sweep.expand(variants, plans[GRID], named=VARIANTS in plans)
        own = {name: reader.variant(name, lines) for name, lines in variants.items()}
    _check_macros([*base, *(binding for found in own.values() for binding in found), *last])
    return Request(
        files=tuple(map(str, files)),
        bindings=tuple(bindings),
        variants=variants,
        imports=tuple(reader.imports),
        notices=tuple(reader.notices),
        overlays=tuple(reader.overlays),
        settings={name: _resolve([*base, *own[name], *last]) for name in variants},
    )


@dataclass(frozen=True)
class Request:
    """What was asked for: files, bindings, variants, and what these amount to."""

    files: tuple[str, ...]  # absolute
    bindings: tuple[str, ...]  # the command line's
    variants: dict[str, tuple[str, ...]]  # name -> its gin lines and files
    imports: tuple[str, ...] = ()  # the import lines
    notices: tuple[str, ...] = ()  # for the user: the paths chosen, and warnings
    overlays: tuple[Path, ...] = ()  # files that may bind what the run does not use
    settings: dict[str, dict[str, Binding]] = field(default_factory=dict, repr=False)  # variant -> key -> binding

    @contextmanager
    def variant(self, name: str) -> Iterator[None]:
        """Within this context gin holds the bindings of one variant, locked; afterwards it holds none.

        A `UserError` from within comes out without what gin adds to its message. If this begins with a key
        ("strategies.L2.l2_weight is -1: ..."), the place of that binding is put beneath.
        """
        gin.clear_config()
        try:
            gin.parse_config([line_for_gin(binding) for binding in self.settings[name].values()])
            gin.finalize()
            yield
        except UserError as error:
            binding = self.settings[name].get(error.message.partition(" ")[0])
            placed = binding.place.error(error.message) if binding else UserError(error.message)
            raise placed.with_traceback(error.__traceback__) from None
        finally:
            gin.clear_config()

    def operative(self) -> dict[str, Any]:
        """Key and value of every parameter used since `variant` was entered, defaults included; call it within."""
        used = {}
        for statement in parse(gin.operative_config_str(), "the operative config"):
            if isinstance(statement, Binding) and is_component(statement.key.rpartition(".")[0]):
                binding = complete(statement)
                used[binding.key] = binding.value
        return used

    def check_used(self, used: Mapping[str, Used]) -> tuple[str, ...]:
        """Compare what was bound with what was used, `{variant: operative()}`, once all parts are built.

        Returns warnings, one a place, about bindings from files that no variant used, but for overlays, which are
        meant for any run; raises `UserError` if such a binding came from the command line.
        """
        uses: dict[Binding, bool] = {}
        for name, settings in self.settings.items():
            for key, binding in settings.items():
                stated = replace(binding, value=None)
                uses[stated] = uses.get(stated, False) or key in used[name]
        idle: dict[str, list[str]] = {}
        for binding in (binding for binding, is_used in uses.items() if not is_used):
            if binding.place.source in (DEFAULT, *self.overlays):
                continue
            if binding.place.source == COMMAND_LINE:
                others = sorted({key.rpartition(".")[0] for keys in used.values() for key in keys} - {"run"})
                raise binding.place.error(f"Nothing in this run uses {binding.key}. Parts in use: {', '.join(others)}.")
            idle.setdefault(str(binding.place.source), []).append(binding.key)
        return tuple(f"Warning: nothing in this run uses {', '.join(keys)} ({file})." for file, keys in idle.items())

    def asked_text(self) -> str:
        """config.gin: all that was asked for in one file, which asks for the same when it is run."""
        asked = {name: {key: binding.value for key, binding in found.items()} for name, found in self.settings.items()}
        return self._text("What was asked for.", asked)

    def operative_text(self, used: Mapping[str, Used]) -> str:
        """operative_config.gin: all that was used, `{variant: operative()}`, in one file that repeats the run."""
        texts = {}
        for name, values in used.items():
            asked = {key: binding.value for key, binding in self.settings[name].items() if key in values}
            # equal values are taken as they were asked for: gin's own text has lost the order of dicts
            equal = {key: value for key, value in asked.items() if value == values[key]}
            texts[name] = dict(sorted({**values, **equal}.items()))
        return self._text("What was used, defaults included.", texts)

    def _text(self, title: str, values: Mapping[str, Used]) -> str:
        """What all variants share, then the lines in which each differs."""
        first, *others = values.values()
        shared = {
            key: value
            for key, value in first.items()
            if all(key in other and repr(other[key]) == repr(value) for other in others)
        }
        lines = [f"# {title}"]
        lines += [f"#   {line}" for part in (*self.files, *self.bindings) for line in part.splitlines()]
        lines += ["", *self.imports, *([""] if self.imports else []), *render(shared), "", f"{VARIANTS} = {{"]
        for name, own in values.items():
            differing = render({key: value for key, value in own.items() if key not in shared})
            lines += [f"    {name!r}: [", *(f"        {line!r}," for line in differing), "    ],"]
        return "\n".join([*lines, "}", ""])


# Reading -------------------------------------------------------------------------------------------


class _Reader:
    """Gathers bindings from files, includes and lines, in order, and imports the modules they name."""

    def __init__(self, search_paths: Sequence[str]) -> None:
        self.search_paths = search_paths
        self.imports: dict[str, None] = {}
        self.notices: dict[str, None] = {}
        self.overlays: dict[Path, None] = {}

    def file(self, name: str, place: Place | None = None, within: tuple[Path, ...] = ()) -> list[Binding]:
        """The bindings of a gin file, which `place` asks for; `within` are the files that include it."""
        with at(place):
            found = lookup.find(name, self.search_paths, within[-1].parent if within else None)
            if found.path in within:
                raise UserError(f"{found.path} includes itself.")
            try:
                text = found.path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{found.path} can't be read: {error}.") from None
        self.notices[f"gin file: {found.path}"] = None
        if text.startswith(OVERLAY):
            self.overlays[found.path] = None
        if found.hides:
            self.notices[f"Warning: this is not the shipped file of that name, {found.hides}."] = None
        return self.text(text, found.path, (*within, found.path))

    def text(self, text: str, source: Path | str, within: tuple[Path, ...] = ()) -> list[Binding]:
        """The bindings of a text, with every name checked and written out in full."""
        statements = parse(text, source)
        for statement in statements:
            if isinstance(statement, Import):
                self.load(statement, within[-1].parent if within else None)
        bindings = []
        for statement in statements:
            if isinstance(statement, Binding):
                bindings.append(complete(statement))
            elif isinstance(statement, Include):
                bindings += self.file(statement.name, statement.place, within)
        return bindings

    def variant(self, name: str, lines: Iterable[str]) -> list[Binding]:
        """The bindings of a variant's lines and files."""
        source = f"{VARIANTS}[{name!r}]"
        bindings = []
        for line in lines:
            bindings += self.file(line, Place(source)) if line.endswith(".gin") else self.text(line, source)
        for binding in bindings:
            if binding.key in PLANS:
                raise binding.place.error(f"The variant {name!r} binds {binding.key}: variants can't have variants.")
        return bindings

    def load(self, statement: Import, beside: Path | None) -> None:
        """Import a user's module. Its folders go behind Python's own path, and stay, for what it imports later."""
        name = statement.module
        folders = [str(folder) for folder in lookup.own_places(self.search_paths, beside)]
        sys.path += [folder for folder in folders if folder not in sys.path]
        importlib.invalidate_caches()
        with at(statement.place):
            try:
                importlib.import_module(name)
            except UserError:
                raise
            except Exception as error:
                if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                    raise UserError(
                        f"There is no module {error.name}: none is installed, and none is in {' or '.join(folders)}. "
                        "--gin_search_path can name its folder."
                    ) from None
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
                raise UserError(f"{name} can't be imported. {type(error).__name__}: {error}{where}") from error
        self.imports[statement.line] = None


# What a variant amounts to --------------------------------------------------------------------------


def _checked_variants(binding: Binding) -> dict[str, tuple[str, ...]]:
    """The value of `run.variants`, or `UserError`."""
    value, form = binding.value, "{'name': ['a gin line', 'a_file.gin'], ...}"
    with at(binding.place):
        if not isinstance(value, dict) or not value:
            raise UserError(f"{VARIANTS} is {value!r}: it must be {form}.")
        for name, lines in value.items():
            if not isinstance(name, str) or not re.fullmatch(r"[^\W_][^/\\\r\n]*", name):
                raise UserError(f"{VARIANTS} names {name!r}: it must begin with a letter or digit and hold no slash.")
            if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
                raise UserError(f"{VARIANTS}[{name!r}] is {lines!r}: it must be a list of strings, as in {form}.")
    return {name: tuple(lines) for name, lines in value.items()}


def _check_not_swept(grid: Binding, others: Sequence[Binding]) -> None:
    """Refuse a key that the grid has twice, and bindings of the command line or of variants of a key that it has."""
    with at(grid.place):
        swept = [complete(Binding(key, None, grid.place)).key for key in sweep.checked(grid)]
        twice = sorted({key for key in swept if swept.count(key) > 1})
        if twice:
            raise UserError(f"{GRID} names {', '.join(twice)} twice.")
    for binding in others:
        if binding.key in swept:
            raise binding.place.error(f"{binding.key} is swept by {GRID}: bind {GRID} instead, as in {sweep.FORM}.")


def _resolve(bindings: Iterable[Binding]) -> dict[str, Binding]:
    """The bindings in force, by key: later ones win, macros are replaced by their values; all checked."""
    last = {binding.key: binding for binding in bindings}
    macros = {key: binding.value for key, binding in last.items() if "." not in key}
    settings = {}
    for key, binding in last.items():
        if "." in key and key not in PLANS:
            with at(binding.place):
                value = _expand(binding.value, macros, (key,))
                _check_kind(key, value)
            settings[key] = replace(binding, value=value)
    return _with_default_parts(settings)


def _expand(value: Any, macros: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """`value` with macros replaced by their values; `within` are the key and the macros that led here."""

    def leaf(item: Any) -> Any:
        if not isinstance(item, Macro):
            return item
        if item.name == "gin.REQUIRED":
            raise UserError(f"{within[-1]} must be given, as in {COMMAND_LINE}='{within[-1]} = ...'.")
        if item.name in within:
            raise UserError(f"The macro {item!r} is defined by itself.")
        if item.name not in macros:
            raise UserError(f"The macro {item!r} has no value.{nearest(item.name, macros)}")
        return _expand(macros[item.name], macros, (*within, item.name))

    return map_value(leaf, value)


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


def _check_macros(bindings: Sequence[Binding]) -> None:
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
