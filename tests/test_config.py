"""config.py: where gin files are found, what a variant amounts to, what each mistake says, the texts that are saved.

The parts here are small stand-ins in a registry of their own, so that no test depends on the shipped ones.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lopbench import config, gin_names, gin_text, lookup, registry
from lopbench.checks import check_number
from lopbench.errors import UserError
from lopbench.protocols import PerReplica


@dataclass(frozen=True)
class Walk:
    """A stream."""

    data: Any
    seeds: Any
    dtype: Any
    tasks: int | None = 3
    noise: dict[str, float] | None = None


@dataclass(frozen=True)
class Digits:
    """A source."""

    size: int = 10


class Net:
    """An architecture."""

    def __init__(self, problem: Any, hidden: tuple[int, ...] = (8, 8), activation: str = "relu") -> None:
        self.hidden, self.activation = hidden, activation


@dataclass(frozen=True)
class Descent:
    """An optimizer."""

    learning_rate: PerReplica[float] = 0.1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "learning_rate", self.learning_rate, above=0)


@dataclass(frozen=True)
class Flat:
    """A schedule."""


@dataclass(frozen=True)
class Ramp:
    """A schedule with a parameter that must be given."""

    steps: int


@dataclass(frozen=True)
class Refresh:
    """A strategy."""

    period: int | None = 100
    rate: float = 0.5


@dataclass(frozen=True)
class Jitter:
    """A strategy; a metric has the same name."""

    scale: float = 0.1


KINDS: dict[str, list[type]] = {
    "streams": [Walk],
    "sources": [Digits],
    "architectures": [Net],
    "optimizers": [Descent],
    "schedules": [Flat, Ramp],
    "strategies": [Refresh, Jitter],
    "metrics": [type("Jitter", (), {"__doc__": "A metric.", "__module__": __name__})],
}


@gin.configurable("stand_in", module="config_test", denylist=["surroundings"])
def run(
    surroundings: str,
    stream: Any,
    architecture: Any,
    optimizer: Any,
    source: Any = None,
    schedule: Any = Flat,
    strategies: Any = (Refresh,),
    metrics: Any = (),
    seeds: Any = 1,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The root: builds everything."""
    built = [stream(None, None, None), architecture(problem=None), optimizer(), schedule(), *(s() for s in strategies)]
    return {"built": built, "seeds": seeds, "dtype": dtype}


BASE = """
run.stream = @streams.Walk
run.architecture = @architectures.Net
run.optimizer = @optimizers.Descent
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty gin, the stand-in parts, an empty working directory, no shipped files; all restored afterwards."""
    gin.clear_config()
    monkeypatch.setattr(gin_names, "ROOT", "config_test.stand_in")
    monkeypatch.setattr(config, "import_parts", lambda: None)
    monkeypatch.setattr(registry, "_parts", {kind: {} for kind in registry.KINDS})
    for kind, classes in KINDS.items():
        for part in classes:
            registry.register(kind)(part)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("home", "shipped"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(lookup, "shipped", lambda: tmp_path / "shipped")
    yield
    gin.clear_config()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a gin file (by default a complete run, with lines added) into a folder: "home", "shipped", ..."""

    def write(text: str = "", name: str = "base.gin", folder: str = "home", base: str = BASE) -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(base + text)
        return path

    return write


def values(request: config.Request) -> dict[str, dict[str, Any]]:
    """What every variant binds."""
    return {name: {key: binding.value for key, binding in found.items()} for name, found in request.settings.items()}


def run_all(request: config.Request) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Every variant's results, and what it used."""
    results, used = {}, {}
    for name in request.variants:
        with request.variant(name):
            results[name] = {key: repr(value) for key, value in run("here").items() if key != "built"}
            used[name] = request.operative()
    return results, used


# Lookup --------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_in_the_documented_order(write: Write, tmp_path: Path) -> None:
    search = [str(tmp_path / "first"), str(tmp_path / "second")]
    for folder in ("shipped", "second", "first", "home"):  # each hides the one before
        path = write(folder=folder)
        assert config.read(["base.gin"], [], search).files == (str(path),)
    elsewhere = write(name="other.gin", folder="elsewhere")
    assert config.read([str(elsewhere)]).files == (str(elsewhere),)
    assert config.read([os.path.relpath(elsewhere)]).files == (str(elsewhere),)


def test_the_paths_chosen_are_told_and_a_hidden_shipped_file_warned_of(write: Write) -> None:
    shipped, own = write(folder="shipped"), write(folder="home")
    fragment = write("Refresh.period = 2", "strategies/refresh.gin", "shipped", base="")
    main = write("include 'strategies/refresh.gin'", "main.gin")
    assert config.read(["main.gin"]).notices == (f"gin file: {main}", f"gin file: {fragment}")
    assert config.read(["base.gin"]).notices == (
        f"gin file: {own}",
        f"Warning: this is not the shipped file of that name, {shipped}.",
    )
    assert config.read([str(own)]).notices == (f"gin file: {own}",)  # asked for in so many words


def test_a_missing_file_says_where_it_was_looked_for_and_what_there_is(write: Write, tmp_path: Path) -> None:
    write(folder="shipped", name="swr_vit.gin")
    with pytest.raises(UserError) as error:
        config.read(["swr_vti"], [], [str(tmp_path / "mine")])
    assert str(error.value) == (
        "There is no gin file 'swr_vti'. Did you mean swr_vit.gin?\n"
        f"  looked for: {tmp_path}/home/swr_vti\n"
        f"              {tmp_path}/mine/swr_vti\n"
        f"              {tmp_path}/shipped/swr_vti"
    )


@pytest.mark.parametrize("name", ["~nobody/base.gin", "x" * 5000, "a\0b", "shipped", "\udcff"])
def test_what_can_be_no_file_is_a_missing_file(name: str) -> None:
    for files, search_paths in (([name], []), (["base.gin"], [name])):
        with pytest.raises(UserError, match=r"^There is no gin file "):
            config.read(files, [], search_paths)


def test_bytes_that_are_no_text_are_refused_before_they_have_to_be_saved(write: Write, tmp_path: Path) -> None:
    write()
    with pytest.raises(UserError) as error:
        config.read(["base.gin"], ["# \udcff"])
    assert str(error.value) == r"--gin_bindings='# \udcff' is not UTF-8, and can't be saved with the run."
    if sys.platform != "darwin":  # where no file can be named so
        write(name="\udcff.gin")
        with pytest.raises(UserError, match=r"udcff.gin' is not UTF-8, and can't be saved with the run: rename it\.$"):
            config.read(["\udcff.gin"])


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match=r"^The working directory is gone: change into one that is there\.$"):
        config.read(["base.gin"])


def test_an_include_is_found_from_the_root_and_beside_the_including_file(write: Write, tmp_path: Path) -> None:
    write("run.seeds = 5", "parts/deep.gin", "elsewhere", base="")
    write("include 'parts/deep.gin'", "main.gin", "elsewhere")
    write("Refresh.period = 7", "strategies/refresh.gin", "shipped", base="")
    write("include 'strategies/refresh.gin'", "shipped.gin", "shipped", base="")
    request = config.read([str(tmp_path / "elsewhere/main.gin"), "shipped.gin"])
    assert values(request)["main"]["run.seeds"] == 5
    assert values(request)["main"]["strategies.Refresh.period"] == 7


def test_a_missing_or_circular_include_names_the_line(write: Write) -> None:
    path = write("include 'nowhere.gin'")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value).startswith("There is no gin file 'nowhere.gin'.\n  looked for: ")
    assert str(error.value).endswith(f"\n  in {path}, line 5: include 'nowhere.gin'")
    path = write("include 'base.gin'")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value) == f"{path} includes itself.\n  in {path}, line 5: include 'base.gin'"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home/raw.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"raw.gin can't be read: 'utf-8' codec"):
        config.read(["raw.gin"])


def test_a_file_may_be_as_windows_writes_it(tmp_path: Path) -> None:
    (tmp_path / "home/theirs.gin").write_bytes(
        b"\xef\xbb\xbf" + f"{BASE}run.seeds = 4\n".replace("\n", "\r\n").encode()
    )
    assert values(config.read(["theirs.gin"]))["theirs"]["run.seeds"] == 4


def test_the_shipped_files_are_found_beside_the_package_or_inside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(lookup, "__file__", str(tmp_path / "checkout/lopbench/lookup.py"))
    assert lookup.shipped() == tmp_path / "checkout/gin_configs"
    (tmp_path / "checkout/lopbench/gin_configs").mkdir(parents=True)  # as a wheel has it
    assert lookup.shipped() == tmp_path / "checkout/lopbench/gin_configs"


# Variants ------------------------------------------------------------------------------------------


def test_later_bindings_win_files_then_the_variant_then_the_command_line(write: Write) -> None:
    write("Refresh.period = 9\nRefresh.rate = 0.9", "refresh.gin", base="")
    write(
        """
        Refresh.period = 1
        Refresh.rate = 0.1
        run.seeds = 1
        run.variants = {'plain': [], 'often': ['Refresh.period = 2', 'refresh.gin', 'run.seeds = 3']}
        """
    )
    write("run.dtype = 'float64'", "second.gin", base="")
    request = config.read(["base.gin", "second.gin"], ["strategies.Refresh.rate = 0.7"])
    assert list(request.variants) == ["plain", "often"]
    shared = {"strategies.Refresh.rate": 0.7, "run.dtype": "float64"}
    assert values(request)["plain"].items() >= {"strategies.Refresh.period": 1, "run.seeds": 1, **shared}.items()
    assert values(request)["often"].items() >= {"strategies.Refresh.period": 9, "run.seeds": 3, **shared}.items()


def test_without_variants_there_is_one_named_after_the_first_file(write: Write) -> None:
    write(name="mine.gin")
    write(name="tiny.gin", base="")
    assert config.read(["mine.gin", "tiny.gin"]).variants == {"mine": ()}


def test_gin_holds_a_variant_within_the_context_only(write: Write) -> None:
    write("run.seeds = [4, 5]\nDescent.learning_rate = 0.3\nNet.hidden = (5,)")
    request = config.read(["base.gin"])
    with request.variant("base"):
        result = run("here")
        assert gin.config_is_locked()
    assert result["seeds"] == [4, 5]
    assert result["built"][2] == Descent(learning_rate=0.3) and type(result["built"][2]) is Descent
    assert result["built"][1].hidden == (5,)
    assert not gin.config_str().strip() and not gin.config_is_locked()


def test_gin_is_emptied_when_a_variant_fails(write: Write) -> None:
    write("run.seeds = 2")
    with pytest.raises(ZeroDivisionError), config.read(["base.gin"]).variant("base"):
        1 / 0  # noqa: B018
    assert not gin.config_str().strip() and not gin.config_is_locked()


def test_a_constructors_error_comes_out_with_its_own_message_and_the_place(write: Write) -> None:
    path = write("Descent.learning_rate = -1")
    with pytest.raises(UserError) as error, config.read(["base.gin"]).variant("base"):
        run("here")
    assert str(error.value) == (
        "optimizers.Descent.learning_rate is -1: it must be a number above 0.\n"
        f"  in {path}, line 5: Descent.learning_rate = -1"
    )
    with pytest.raises(UserError, match=r"^No GPU here\.$"), config.read(["base.gin"]).variant("base"):
        raise UserError("No GPU here.")


def test_macros_are_replaced_by_their_values(write: Write) -> None:
    write("WIDTH = 5\nPAIR = (%WIDTH, 6)\nNet.hidden = %PAIR\nOPT = @optimizers.Descent\nrun.optimizer = %OPT")
    request = config.read(["base.gin"], ["WIDTH = 7"])
    assert values(request)["base"]["architectures.Net.hidden"] == (7, 6)
    with request.variant("base"):
        assert run("here")["built"][1].hidden == (7, 6)


def test_a_bare_name_and_a_block_mean_the_same_as_full_names(write: Write) -> None:
    write("Refresh:\n    period = 4\n    rate = 0.2\nstand_in.dtype = 'float64'")
    found = values(config.read(["base.gin"], ["Descent.momentum = 0.9"]))["base"]
    assert found["strategies.Refresh.period"] == 4
    assert found["optimizers.Descent.momentum"] == 0.9
    assert found["run.dtype"] == "float64"


def test_a_default_that_is_a_part_can_be_configured(write: Write) -> None:
    write("Refresh.period = 4")  # run.strategies has a default with this class in it
    request = config.read(["base.gin"])
    with request.variant("base"):
        assert run("here")["built"][-1] == Refresh(period=4)


# A user's own modules ------------------------------------------------------------------------------

PART = '''
import lopbench
from dataclasses import dataclass

@lopbench.register("strategies")
@dataclass(frozen=True)
class {name}:
    """Mine."""
    strength: float = 1.0
'''


@pytest.mark.parametrize("where", ["home", "search", "gin file"])
def test_an_import_line_finds_a_users_part(write: Write, tmp_path: Path, where: str) -> None:
    name = f"Mine{where.title().replace(' ', '')}"
    folder = {"home": "home", "search": "search", "gin file": "lab"}[where]
    write(PART.format(name=name), f"package_{name}/part.py", folder, base="")
    lines = f"import package_{name}.part\nrun.strategies = [@strategies.{name}]\n{name}.strength = 3.0"
    main = write(lines, folder="lab")
    request = config.read([str(main)], [], [str(tmp_path / "search")])
    with request.variant("base"):
        assert run("here")["built"][-1].strength == 3.0
    assert f"import package_{name}.part\n" in request.asked_text()


def test_an_import_that_fails_says_why(write: Write, tmp_path: Path) -> None:
    path = write("import no_such_package.part")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value) == (
        f"There is no module no_such_package: none is installed, and none is in {tmp_path}/home. "
        f"--gin_search_path can name its folder.\n  in {path}, line 5: import no_such_package.part"
    )


BROKEN = {
    "raises": (
        "import math\nmath.nothing\n",
        "{name} can't be imported. AttributeError: module 'math' has no attribute 'nothing' ({path}, line 2)",
    ),
    "exits": ("import sys\nsys.exit(3)\n", "{name} can't be imported. SystemExit: 3 ({path}, line 2)"),
    "unfinished": ("x = = 1\n", "{name} can't be imported. SyntaxError: invalid syntax ({name}.py, line 1)"),
    "misuses": (
        "import lopbench\n\n@lopbench.register('strategy')\nclass A:\n    'A.'",
        "lopbench.register('strategy'): no such kind. Did you mean strategies or streams?",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_users_module_that_is_broken_says_how(write: Write, name: str) -> None:
    text, message = BROKEN[name]
    path = write(text, f"{name}_part.py", base="")
    main = write(f"import {name}_part")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    expected = message.format(name=f"{name}_part", path=path)
    assert str(error.value) == f"{expected}\n  in {main}, line 5: import {name}_part"


# Mistakes ------------------------------------------------------------------------------------------

IN_FILE = {
    "unknown part": ("strategies.Refesh.period = 1", "There is no strategies.Refesh. Did you mean Refresh?"),
    "unknown part without its kind": ("Refesh.period = 1", "There is no Refesh. Did you mean strategies.Refresh?"),
    "nothing near": ("Wwwww.period = 1", "There is no Wwwww. --list shows every part."),
    "kind misspelt": ("strategy.Refresh.period = 1", "There is no strategy.Refresh. Did you mean strategies.Refresh?"),
    "wrong kind": ("optimizers.Refresh.rate = 1", "There is no optimizers.Refresh. Did you mean strategies.Refresh?"),
    "unknown reference": (
        "run.strategies = [@strategies.Refesh]",
        "There is no strategies.Refesh. Did you mean Refresh?",
    ),
    "unknown parameter": ("Refresh.perod = 1", "strategies.Refresh has no parameter perod. Did you mean period?"),
    "no near parameter": ("Refresh.x = 1", "strategies.Refresh has no parameter x. Known: period, rate."),
    "unknown parameter of run": ("run.seed = 1", "run has no parameter seed. Did you mean seeds or schedule?"),
    "ambiguous": ("Jitter.scale = 1", "Jitter is ambiguous: write strategies.Jitter or metrics.Jitter."),
    "runtime argument": ("Net.problem = 1", "architectures.Net.problem is set by the run itself and can't be bound."),
    "runtime argument of run": (
        "run.surroundings = 1",
        "run.surroundings is set by the run itself and can't be bound.",
    ),
    "scope": (
        "big/Refresh.period = 1",
        "big/Refresh has a scope, and lopbench uses none: write Refresh without 'big/', "
        "and state differences in run.variants.",
    ),
    "scope in a reference": (
        "run.strategies = [@big/Refresh]",
        "@big/Refresh has a scope, and lopbench uses none: leave out 'big/'.",
    ),
    "called reference": (
        "run.optimizer = @Descent()",
        "Write @optimizers.Descent without parentheses: the run builds its parts itself.",
    ),
    "reference of another kind": (
        "run.optimizer = @Refresh",
        "run.optimizer is @strategies.Refresh: it must be one of the optimizers. Known: Descent.",
    ),
    "no reference": (
        "run.optimizer = 'Descent'",
        "run.optimizer is 'Descent': it must be a reference, such as @optimizers.Descent.",
    ),
    "none where one is needed": (
        "run.stream = None",
        "run.stream is None: it must be a reference, such as @streams.Walk.",
    ),
    "no list": (
        "run.strategies = @Refresh",
        "run.strategies is @strategies.Refresh: it must be a list of references, such as [@strategies.Jitter].",
    ),
    "reference to the root": ("run.optimizer = @run", "run is the root of the configuration, and no part of it."),
    "unused macro": ("seed = 1", "seed is a macro that nothing uses. Did you mean run.seeds?"),
    "unused macro, exact": ("rate = 1", "rate is a macro that nothing uses. Did you mean strategies.Refresh.rate?"),
    "unused macro, nothing near": (
        "Q = 1",
        "Q is a macro that nothing uses. A parameter needs its component in front.",
    ),
    "infinite": ("Refresh.rate = 1e999", "An infinite value can't be saved with the run: use None for no limit."),
    "unquoted": (
        "run.dtype = float64",
        "float64 is no value: a string needs quotes, and True, False and None begin with a capital letter.",
    ),
    "no value": ("run.seeds = ", "This is no gin: Unable to parse value."),
    "no statement": ("run seeds 3", "This is no gin: Couldn't parse statement, expected ':' or '='."),
    "variants empty": (
        "run.variants = {}",
        "run.variants is {}: it must be {'name': ['a gin line', 'a_file.gin'], ...}.",
    ),
    "variants no dict": (
        "run.variants = ['a']",
        "run.variants is ['a']: it must be {'name': ['a gin line', 'a_file.gin'], ...}.",
    ),
    "variant no list": (
        "run.variants = {'a': 'run.seeds = 1'}",
        "run.variants['a'] is 'run.seeds = 1': it must be a list of strings, "
        "as in {'name': ['a gin line', 'a_file.gin'], ...}.",
    ),
    "variant's name": (
        "run.variants = {'../a': []}",
        "run.variants names '../a': it must begin with a letter or digit, and hold no slash and nothing unprintable.",
    ),
    "variant's name, unprintable": (
        r"run.variants = {'a\x00': []}",
        r"run.variants names 'a\x00': it must begin with a letter or digit, and hold no slash and nothing unprintable.",
    ),
    "grid's name, a slash": (
        r"sweep.grid = {'run.dtype': ['a\x00']}",
        r"sweep.grid makes a variant 'dtype=a\x00': it must begin with a letter or digit, "
        "and hold no slash and nothing unprintable.",
    ),
    "large grid": (
        f"sweep.grid = {{'run.seeds': {[*range(1, 9)]}, 'Ramp.steps': {[*range(1251)]}}}",
        "sweep.grid makes 10,008 variants: at most 10,000 are taken.",
    ),
    "large integer": (
        "run.seeds = 9223372036854775808",
        "An integer must fit into 64 bits; a larger number is written as 1e30.",
    ),
    "large integer as a key": (
        "Walk.noise = {-9223372036854775809: 1}",
        "An integer must fit into 64 bits; a larger number is written as 1e30.",
    ),
    "half a character": (
        r"run.dtype = '\ud800'",
        r"'\ud800' can't be saved with the run: it holds half a character.",
    ),
    "nested": (
        f"run.seeds = {'[' * 21}1{']' * 21}",
        "The value of run.seeds is nested more than 20 levels deep.",
    ),
}


def shown(line: str) -> str:
    """A line as messages show it."""
    return line.strip() if len(line.strip()) <= 120 else f"{line.strip()[:117]}..."


@pytest.mark.parametrize("line, message", IN_FILE.values(), ids=IN_FILE.keys())
def test_a_mistake_in_a_file(write: Write, line: str, message: str) -> None:
    path = write(f"{line}\n")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value) == f"{message}\n  in {path}, line 5: {shown(line)}"


@pytest.mark.parametrize("line, message", IN_FILE.values(), ids=IN_FILE.keys())
def test_a_mistake_on_the_command_line(write: Write, line: str, message: str) -> None:
    write()
    with pytest.raises(UserError) as error:
        config.read(["base.gin"], [line])
    assert str(error.value) == f"{message}\n  in --gin_bindings: {shown(line)}"


LATER = {
    "unbound macro": (
        "WIDTH = 3\nNet.hidden = (%WIDTH, %WIDHT)",
        "The macro %WIDHT has no value. Did you mean WIDTH?\n  in {path}, line 6: Net.hidden = (%WIDTH, %WIDHT)",
    ),
    "macro of itself": (
        "A = %B\nB = %A\nrun.seeds = %A",
        "The macro %A is defined by itself.\n  in {path}, line 7: run.seeds = %A",
    ),
    "macros without end": (
        "\n".join([*(f"M{i} = %M{i + 1}" for i in range(21)), "M21 = 1\nrun.seeds = %M0"]),
        "The macro %M20 stands behind more than 20 others, one behind the other.\n"
        "  in {path}, line 27: run.seeds = %M0",
    ),
    "macros of macros of macros": (
        "\n".join([*(f"M{i} = [%M{i + 1}, %M{i + 1}]" for i in range(17)), "M17 = 1\nrun.seeds = %M0"]),
        "The value of M1 holds more than 100,000 items, which is too much for a configuration.\n"
        "  in {path}, line 23: run.seeds = %M0",
    ),
    "list for a key": (
        "KEYS = [1]\nWalk.noise = {%KEYS: 1}",
        "A macro that is a list or a dict can't be a key.\n  in {path}, line 6: Walk.noise = {{%KEYS: 1}}",
    ),
    "value left open": (
        "Refresh.rate = %gin.REQUIRED",
        "strategies.Refresh.rate must be given, as in --gin_bindings='strategies.Refresh.rate = ...'.\n"
        "  in {path}, line 5: Refresh.rate = %gin.REQUIRED",
    ),
    "macro left open": (
        "RATE = %gin.REQUIRED\nRefresh.rate = %RATE",
        "RATE must be given, as in --gin_bindings='RATE = ...'.\n  in {path}, line 6: Refresh.rate = %RATE",
    ),
    "no default": ("run.schedule = @Ramp", "schedules.Ramp.steps must be given, and nothing binds it."),
    "mistake in a variant": (
        "run.variants = {'a': [], 'b': ['Refresh.perod = 1']}",
        "strategies.Refresh has no parameter perod. Did you mean period?\n  in run.variants['b']: Refresh.perod = 1",
    ),
    "variants in a variant": (
        "run.variants = {'a': ['run.variants = {}']}",
        "The variant 'a' binds run.variants: variants can't have variants.\n"
        "  in run.variants['a']: run.variants = {{}}",
    ),
}


@pytest.mark.parametrize("text, message", LATER.values(), ids=LATER.keys())
def test_a_mistake_that_shows_in_the_whole(write: Write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value) == message.format(path=path)


def test_brackets_that_are_too_many_for_the_parser(write: Write) -> None:
    write()
    with pytest.raises(UserError) as error:
        config.read(["base.gin"], [f"run.seeds = {'[' * 5000}"])
    message = str(error.value).replace(
        "too many nested parentheses", "its brackets are nested too deep"
    )  # Python 3.12's
    assert message.startswith("This is no gin: its brackets are nested too deep.\n  in --gin_bindings: run.seeds = [[[")


def test_a_macro_may_be_a_key(write: Write) -> None:
    write("KEY = 'a'\nWalk.noise = {%KEY: 1}")
    assert values(config.read(["base.gin"]))["base"]["streams.Walk.noise"] == {"a": 1}


@pytest.mark.parametrize("name, fits", [("漢" * 66, True), ("漢" * 67, False)])
def test_a_variant_s_name_is_at_most_200_bytes_long(write: Write, name: str, fits: bool) -> None:
    write(f"run.variants = {{{name!r}: []}}")
    message = f"run.variants names {name!r}: it must be at most 200 bytes long, as a folder is named so."
    with nullcontext() if fits else pytest.raises(UserError, match=re.escape(message)):
        assert list(config.read(["base.gin"]).variants) == [name]


def test_a_file_whose_name_is_no_variant_s_makes_the_variant_run(write: Write) -> None:
    write(name="_mine.gin")
    request = config.read(["_mine.gin"])
    assert list(request.variants) == ["run"]
    write(request.asked_text(), "again.gin", base="")
    assert list(config.read(["again.gin"]).variants) == ["run"]


def test_an_open_bracket(write: Write) -> None:
    path = write("run.seeds = [1,")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value).replace("unexpected EOF", "EOF") == (  # Python 3.12 has the other word
        f"This is no gin: EOF in multi-line statement.\n  in {path}, line 5: run.seeds = [1,"
    )


def test_a_missing_file_of_a_variant_names_the_variant(write: Write) -> None:
    write("run.variants = {'a': ['nowhere.gin']}")
    with pytest.raises(UserError, match=r"(?s)^There is no gin file 'nowhere.gin'.*\n  in run.variants\['a'\]$"):
        config.read(["base.gin"])


def test_a_fragment_alone_is_no_run(write: Write) -> None:
    write("Refresh.period = 3", base="")
    with pytest.raises(UserError) as error:
        config.read(["base.gin"])
    assert str(error.value) == "run.stream must be given, and nothing binds it. Is the gin file a complete run?"
    with pytest.raises(UserError, match=r"^Name a gin file: --gin_file=NAME.gin.$"):
        config.read([])


def test_a_macro_that_only_an_overridden_binding_uses_is_no_mistake(write: Write) -> None:
    write("RATE = 0.2\nRefresh.rate = %RATE")
    request = config.read(["base.gin"], ["Refresh.rate = 0.3"])
    again = write(request.asked_text(), "again.gin", base="")
    assert values(config.read([str(again)])) == values(request)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab.=@%/()[]{},:'\"\\\n \t#-1e$é"), max_size=30))
@example("a = {[1]: 2}")
@example("a:\n")
@example("\\")
@example("a = (")
@example("a.b =\n  c")
def test_any_text_parses_or_is_refused_with_a_sentence(text: str) -> None:
    try:
        gin_text.parse(text, "anything")
    except UserError as error:
        assert error.message.rstrip() and "object at 0x" not in error.message


# Bindings that nothing used ------------------------------------------------------------------------


def test_an_unused_binding_is_a_warning_from_a_file_and_an_error_from_the_command_line(write: Write) -> None:
    path = write("strategies.Jitter.scale = 3\nRamp.steps = 3\nrun.variants = {'a': [], 'b': ['Digits.size = 1']}")
    request = config.read(["base.gin"])
    assert request.check_used(run_all(request)[1]) == (
        f"Warning: nothing in this run uses strategies.Jitter.scale, schedules.Ramp.steps ({path}).",
        "Warning: nothing in this run uses sources.Digits.size (run.variants['b']).",
    )
    request = config.read(["base.gin"], ["Digits.size = 2"])
    with pytest.raises(UserError) as error:
        request.check_used(run_all(request)[1])
    assert str(error.value) == (
        "Nothing in this run uses sources.Digits.size. "
        "Parts in use: architectures.Net, optimizers.Descent, strategies.Refresh, streams.Walk.\n"
        "  in --gin_bindings: Digits.size = 2"
    )


def test_a_binding_that_one_variant_uses_is_used(write: Write) -> None:
    write("strategies.Jitter.scale = 3\nrun.variants = {'a': [], 'b': ['run.strategies = [@strategies.Jitter]']}")
    request = config.read(["base.gin"], ["strategies.Jitter.scale = 4"])
    assert request.check_used(run_all(request)[1]) == ()


# The texts that are saved --------------------------------------------------------------------------

STUDY = """
import math
WIDTH = 16
Net.hidden = (%WIDTH, 4)
Walk.noise = {'z': 1e-05, 'a': -2.5}
Walk.tasks = None
run.seeds = [3, 1]
include 'refresh.gin'
run.variants = {
    'none': ['run.strategies = []'],
    'often': ['often.gin', 'Refresh.rate = 0.25', "Net.activation = 'it\\\\'s \\"odd\\"'"],
    'wide': ['WIDTH = 32'],
    'scheduled': ['run.schedule = @schedules.Ramp', 'schedules.Ramp.steps = 10'],
}
"""


@pytest.fixture
def study(write: Write) -> config.Request:
    write("Refresh.rate = 0.125", "refresh.gin", base="")
    write("Refresh.period = 2", "often.gin", base="")
    write(STUDY, "study.gin")
    return config.read(["study.gin"], ["Descent.momentum = 0.5", "Refresh.rate = 0.75"])


def test_the_text_of_what_was_asked_asks_for_the_same(study: config.Request, write: Write) -> None:
    write(study.asked_text(), "config.gin", "results", base="")
    for name in ("refresh.gin", "often.gin"):
        os.unlink(name)  # the text needs no other file
    again = config.read(["../results/config.gin"])
    assert values(again) == values(study)
    assert list(values(again)["wide"]["streams.Walk.noise"]) == ["z", "a"]
    assert again.imports == ("import math",)
    assert again.asked_text().partition("\n\n")[2] == study.asked_text().partition("\n\n")[2]  # but for its own path


def test_the_text_of_what_was_used_repeats_the_run(study: config.Request, write: Write) -> None:
    results, used = run_all(study)
    write(study.operative_text(used), "operative_config.gin", base="")
    again = config.read(["operative_config.gin"])
    results_again, used_again = run_all(again)
    assert used_again == used and results_again == results
    assert again.check_used(used_again) == ()
    assert again.operative_text(used_again).partition("\n\n")[2] == study.operative_text(used).partition("\n\n")[2]


def test_the_text_states_defaults_and_differences(write: Write) -> None:
    path = write("strategies.Jitter.scale = 1\nrun.variants = {'a': [], 'b': ['Refresh.period = None']}")
    request = config.read(["base.gin"], ["run.seeds = 2"])
    assert request.operative_text(run_all(request)[1]) == (
        "# What was used, defaults included.\n"
        f"#   {path}\n"
        "#   run.seeds = 2\n"
        "\n"
        "run.architecture = @architectures.Net\n"
        "run.dtype = 'float32'\n"
        "run.metrics = ()\n"
        "run.optimizer = @optimizers.Descent\n"
        "run.schedule = @schedules.Flat\n"
        "run.seeds = 2\n"
        "run.source = None\n"
        "run.strategies = (@strategies.Refresh,)\n"
        "run.stream = @streams.Walk\n"
        "architectures.Net.activation = 'relu'\n"
        "architectures.Net.hidden = (8, 8)\n"
        "optimizers.Descent.learning_rate = 0.1\n"
        "optimizers.Descent.momentum = 0.0\n"
        "strategies.Refresh.rate = 0.5\n"
        "streams.Walk.noise = None\n"
        "streams.Walk.tasks = 3\n"
        "\n"
        "run.variants = {\n"
        "    'a': [\n"
        "        'strategies.Refresh.period = 100',\n"
        "    ],\n"
        "    'b': [\n"
        "        'strategies.Refresh.period = None',\n"
        "    ],\n"
        "}\n"
    )


def test_a_pinned_value_replaces_what_was_asked(write: Write) -> None:
    write("run.dtype = 'auto'")
    request = config.read(["base.gin"])
    used = run_all(request)[1]
    used["base"]["run.dtype"] = "float64"
    write(request.operative_text(used), "again.gin", base="")
    assert values(config.read(["again.gin"]))["base"]["run.dtype"] == "float64"


# Grids -----------------------------------------------------------------------------------------------


GRIDDED = "Ramp.steps = 5\nsweep.grid = {'Descent.learning_rate': [0.1, 1e-3], 'run.seeds': [1, 2]}"


def test_a_grid_makes_a_variant_of_every_combination(write: Write) -> None:
    request = config.read([write(GRIDDED)])
    assert list(request.variants) == [
        "learning_rate=0.1 seeds=1",
        "learning_rate=0.1 seeds=2",
        "learning_rate=0.001 seeds=1",
        "learning_rate=0.001 seeds=2",
    ]
    last = request.settings["learning_rate=0.001 seeds=2"]
    assert (last["optimizers.Descent.learning_rate"].value, last["run.seeds"].value) == (1e-3, 2)


def test_a_grid_multiplies_the_variants(write: Write) -> None:
    text = "run.variants = {'a': [], 'b': []}\nsweep.grid = {'run.seeds': [2]}"
    request = config.read([write(text)])
    assert {name: found["run.seeds"].value for name, found in request.settings.items()} == {
        "a seeds=2": 2,
        "b seeds=2": 2,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run.variants = {\n    'a': [],\n    'a': ['run.seeds = 2'],\n}",
            "'a' is named twice: the second would replace",
        ),
        ("sweep.grid = {'run.seeds': [1], 'run.seeds': [2]}", "'run.seeds' is named twice"),
        ("run.variants = {'a': [], 'b': [{'c': 1, 'c': 2}]}", "'c' is named twice"),
    ],
)
def test_nothing_is_named_twice_in_one_dict(write: Write, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        config.read([write(text)])
    assert re.search(r"\n  in .*base\.gin, line \d+", str(refusal.value))
    config.read([write("run.variants = {'a': ['run.seeds = 2'], 'b': ['run.seeds = 2']}")])


@pytest.mark.parametrize(
    "grid, message",
    [
        ("[1]", "sweep.grid is [1]: it must be {'kind.Part.parameter'"),
        ("{'run.seeds': 3}", "sweep.grid['run.seeds'] is 3: it must be a list of values"),
        ("{'run.seeds': [3, 3]}", "it names a value twice"),
        ("{'run.seed': [3]}", "run has no parameter seed. Did you mean seeds"),
    ],
)
def test_a_wrong_grid_is_refused(write: Write, grid: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        config.read([write(f"sweep.grid = {grid}")])
    assert message in str(refusal.value)


def test_the_command_line_can_not_bind_what_is_swept(write: Write) -> None:
    with pytest.raises(UserError, match=r"run.seeds is swept by sweep.grid: bind sweep.grid instead"):
        config.read([write("sweep.grid = {'run.seeds': [1, 2]}")], ["run.seeds = 3"])


def test_what_a_grid_amounted_to_is_saved_as_variants(write: Write, tmp_path: Path) -> None:
    request = config.read([write("sweep.grid = {'run.seeds': [1, 2]}")])
    saved = write(request.asked_text(), "saved.gin")
    again = config.read([saved])
    assert list(again.variants) == list(request.variants) == ["seeds=1", "seeds=2"]
    assert [found["run.seeds"].value for found in again.settings.values()] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep.grid = {'Descent.learning_rate': [1, 1.0]}", "[1, 1.0]: it names a value twice"),
        ("sweep.grid = {'run.seeds': [None, 'None']}", "sweep.grid makes two variants named 'seeds=None'"),
        (
            "sweep.grid = {'Descent.learning_rate': [1], 'optimizers.Descent.learning_rate': [2]}",
            "names optimizers.Desc",
        ),
        (
            "run.variants = {'a': ['run.seeds = 3']}\nsweep.grid = {'run.seeds': [1]}",
            "run.seeds is swept by sweep.grid",
        ),
    ],
)
def test_a_grid_loses_no_point_in_silence(write: Write, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        config.read([write(text)])
    assert message in str(refusal.value)


def test_close_values_of_a_grid_keep_their_digits(write: Write) -> None:
    request = config.read([write("sweep.grid = {'Descent.learning_rate': [0.12345671, 0.12345672, 1e-5]}")])
    assert list(request.variants) == ["learning_rate=0.12345671", "learning_rate=0.12345672", "learning_rate=1e-05"]


def test_an_overlay_may_bind_what_a_run_does_not_use(write: Write) -> None:
    lines = "strategies.Refresh.period = 3\n"
    for text, warned in ((f"# Overlay: shrinks.\n{lines}", False), (f"# A file.\n{lines}", True)):
        request = config.read([write(), write(text, name="more.gin", base="")])
        with request.variant("base"):
            used = request.operative()
        assert any("strategies.Refresh.period" in warning for warning in request.check_used({"base": used})) == warned
