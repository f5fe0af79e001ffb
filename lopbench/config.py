"""The one way in for gin: reads files and bindings, checks them, hands variants to gin, writes what a run saves.

lookup.py finds the files, gin_text.py knows the syntax, gin_names.py what names mean, gin_values.py what bindings
amount to. Everything is checked here, for every variant, before gin binds anything, so that a mistake gets one short
message: what is wrong, where, and what was probably meant. gin then only hands the bindings to the constructors, and
tells which of them were used.

    request = config.read(["swr_vit.gin"], ["run.seeds = 5"])
    for name in request.variants:
        with request.variant(name):
            ...  # call run() and build its parts

A variant's bindings are those of the gin files, then its own lines, then the command line's; a later
binding of the same key wins. Macros are replaced by their values before gin sees them.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gin

from lopbench import lookup, sweep
from lopbench.errors import UserError, require
from lopbench.gin_names import PLANS, VARIANTS, complete, is_component, line_for_gin
from lopbench.gin_text import Binding, Import, Include, Place, at, is_text, parse, render
from lopbench.gin_values import COMMAND_LINE, DEFAULT, check_macros, components_in_use, resolve
from lopbench.sweep import Point

#: how a file begins that shrinks or changes any run
OVERLAY = "# Overlay"
#: bytes of a variant's name: file systems take 255, and a logger may add to it
LONGEST_NAME = 200

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
    for line in bindings:
        require(is_text(line), f"{COMMAND_LINE}={line!r} is not UTF-8, and can't be saved with the run.")
    last = [binding for line in bindings for binding in reader.text(line, COMMAND_LINE)]
    plans = {binding.key: binding for binding in [*base, *last] if binding.key in PLANS}
    stem = files[0].stem
    methods: dict[str, tuple[str, ...]] = {"run" if _fault_of(stem) else stem: ()}  # the saved text names it
    if VARIANTS in plans:
        methods = _checked_variants(plans[VARIANTS])
    own = {name: reader.variant(name, lines) for name, lines in methods.items()}
    check_macros([*base, *(binding for found in own.values() for binding in found), *last])
    plans = {key: _with_full_keys(binding) if key in sweep.AXES else binding for key, binding in plans.items()}
    said = [binding for found in own.values() for binding in found if not isinstance(binding.place.source, Path)]
    sweep.not_bound_twice(plans, [*last, *said])
    variants: dict[str, _Variant] = {}
    points = sweep.points(plans)
    for method, lines in methods.items():
        named, settings_with = method if VARIANTS in plans else "", partial(_settings, reader, base, own[method], last)
        for values in points:
            _add(variants, _at_point(method, named, lines, values, settings_with), plans)
    _check_swept_keys_used(plans, variants.values())
    return Request(
        files=tuple(map(str, files)),
        bindings=tuple(bindings),
        variants={name: variant.lines for name, variant in variants.items()},
        imports=tuple(reader.imports),
        notices=tuple(reader.notices),
        overlays=tuple(reader.overlays),
        settings={name: variant.settings for name, variant in variants.items()},
        points={name: variant.point for name, variant in variants.items()}
        | (sweep.told(plans[sweep.POINTS]) if sweep.POINTS in plans else {}),
        most_replicas=plans[sweep.MOST_REPLICAS].value if sweep.MOST_REPLICAS in plans else None,
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
    points: dict[str, Point] = field(default_factory=dict, repr=False)  # variant -> its place in the sweep
    most_replicas: int | None = None  # a population has at most

    def only(self, seeds: Mapping[str, Sequence[int]], points: Mapping[str, Point]) -> Request:
        """What asks for these seeds of these variants, known by these points."""
        settings = {}
        for name, own in seeds.items():
            place = self.settings[name].get("run.seeds", Binding("run.seeds", None, Place(DEFAULT))).place
            settings[name] = {**self.settings[name], "run.seeds": Binding("run.seeds", list(own), place)}
        variants = {name: self.variants[name] for name in seeds}
        return replace(self, variants=variants, settings=settings, points=dict(points), most_replicas=None)

    @property
    def swept(self) -> bool:
        """Whether the variants are points of a sweep."""
        return any(point.values or point.method != name for name, point in self.points.items())

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
        settings = self.settings.items()  # sorted: the same, whatever the order in which it was asked for
        asked = {name: {key: found[key].value for key in sorted(found)} for name, found in settings}
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
        lines += ["", *self.imports, *([""] if self.imports else []), *render(shared), ""]
        lines += [*self._sweep_lines(), f"{VARIANTS} = {{"]
        for name, own in values.items():
            differing = render({key: value for key, value in own.items() if key not in shared})
            lines += [f"    {name!r}: [", *(f"        {line!r}," for line in differing), "    ],"]
        return "\n".join([*lines, "}", ""])

    def _sweep_lines(self) -> list[str]:
        """What a run of the saved text must be told of the sweep that its variants come from."""
        packed = [f"{sweep.MOST_REPLICAS} = {self.most_replicas}"] if self.most_replicas else []
        if not self.swept:
            return packed
        points = (f"    {name!r}: {point.told()!r}," for name, point in self.points.items())
        return [*packed, f"{sweep.POINTS} = {{", *points, "}", ""]


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
                text = found.path.read_text(encoding="utf-8-sig")  # as some editors begin it
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
            except (Exception, SystemExit) as error:
                if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                    raise UserError(
                        f"There is no module {error.name}: none is installed, and none is in {' or '.join(folders)}. "
                        "--gin_search_path can name its folder."
                    ) from None
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
                raise UserError(f"{name} can't be imported. {type(error).__name__}: {error}{where}") from error
        self.imports[statement.line] = None


# Variants --------------------------------------------------------------------------


def _checked_variants(binding: Binding) -> dict[str, tuple[str, ...]]:
    """The value of `run.variants`, or `UserError`."""
    value, form = binding.value, "{'name': ['a gin line', 'a_file.gin'], ...}"
    with at(binding.place):
        if not isinstance(value, dict) or not value:
            raise UserError(f"{VARIANTS} is {value!r}: it must be {form}.")
        for name, lines in value.items():
            _check_name(name, f"{VARIANTS} names")
            if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
                raise UserError(f"{VARIANTS}[{name!r}] is {lines!r}: it must be a list of strings, as in {form}.")
    return {name: tuple(lines) for name, lines in value.items()}


def _check_name(name: Any, who: str) -> None:
    """Refuse what can't be a variant's name."""
    fault = _fault_of(name)
    require(not fault, f"{who} {name!r}: it must {fault}.")


def _fault_of(name: Any) -> str:
    """What a variant's name lacks to be shown, and to name a folder; "" if nothing."""
    if not isinstance(name, str) or not re.fullmatch(r"[^\W_][^/\\]*", name) or not name.isprintable():
        return "begin with a letter or digit, and hold no slash and nothing unprintable"
    too_long = len(name.encode()) > LONGEST_NAME
    return f"be at most {LONGEST_NAME} bytes long, as a folder is named so" if too_long else ""


# Sweeps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variant:
    """A method at a point: its name, its lines with those of the point, what they amount to."""

    name: str
    lines: tuple[str, ...]
    settings: dict[str, Binding]
    point: Point


def _with_full_keys(binding: Binding) -> Binding:
    """What binds axes, with every key written out in full."""
    with at(binding.place):
        checked = sweep.checked(binding)
    axes = [(complete(Binding(key, None, binding.place)).key, axis) for key, axis in checked.items()]
    keys = [key for key, _ in axes]
    with at(binding.place):
        for key in keys:
            require(keys.count(key) == 1, f"{binding.key} names {key} twice.")
            require("." in key and key not in PLANS, f"{binding.key} names {key}, which can't be swept.")
    return replace(binding, value=dict(axes))


def _settings(
    reader: _Reader,
    base: Sequence[Binding],
    own: Sequence[Binding],
    last: Sequence[Binding],
    name: str,
    lines: Sequence[str],
) -> dict[str, Binding]:
    """What the bindings of a method and the lines of a point amount to."""
    return resolve([*base, *own, *reader.variant(name, lines), *last])


def _at_point(
    method: str,
    named: str,
    lines: tuple[str, ...],
    values: Mapping[str, Any],
    settings_with: Callable[[str, Sequence[str]], dict[str, Binding]],
) -> _Variant:
    """The variant that a method makes at a point of the sweep, without the axes of parts that it does not have."""
    settings = settings_with(f"{named} {sweep.label(values)}".strip() or method, render(dict(values)))
    parts = components_in_use(settings)
    used = {key: value for key, value in values.items() if key.rpartition(".")[0] in parts}
    point = Point(method, {key: sweep.as_value(settings[key].value) for key in used})
    name = f"{named} {sweep.label(used)}".strip() or method
    kept = {key: binding for key, binding in settings.items() if key in used or key not in values}
    return _Variant(name, (*lines, *render(used)), kept, point)


def _add(variants: dict[str, _Variant], found: _Variant, plans: Mapping[str, Binding]) -> None:
    """Note a variant of the sweep. It may be there already, where a method has not all of the axes."""
    swept = [key for key in sweep.AXES if key in plans]
    with at(plans[swept[0]].place if swept else None):
        if swept:
            _check_name(found.name, f"{swept[0]} makes a variant")
        known = variants.setdefault(found.name, found)
        if repr(known.point) != repr(found.point):
            raise UserError(f"{swept[0]} makes two variants named {found.name!r}: leave one of the values out.")


def _check_swept_keys_used(plans: Mapping[str, Binding], variants: Iterable[_Variant]) -> None:
    """Refuse an axis that no variant has."""
    used = {key for variant in variants for key in variant.point.values}
    for name in sweep.AXES:
        for key in plans[name].value if name in plans else ():
            if key not in used:
                raise plans[name].place.error(f"{name} sweeps {key}, and nothing in this run uses that.")
