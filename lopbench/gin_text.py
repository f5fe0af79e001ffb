"""The syntax of gin, no meaning: texts to statements with their places, and values back to text."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gin import config_parser

from lopbench.errors import UserError

#: How deep lists may be nested, and how many items a value may hold, once macros are replaced. Without a bound, a few
#: lines of macros of macros fill the memory.
DEEPEST, MOST_ITEMS = 20, 100_000


@dataclass(frozen=True)
class Reference:
    """`@kind.Name` in a gin file; its repr is that text."""

    name: str
    called: bool = False  # written with parentheses

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME` in a gin file; its repr is that text."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Place:
    """Where a piece of gin stands: in a file (a path and a line), or in a flag or a variant (a text)."""

    source: Path | str
    line: int = 0
    text: str = ""

    def error(self, message: str) -> UserError:
        """The message with this place beneath it."""
        return UserError(f"{message}\n  in {self}")

    def __str__(self) -> str:
        number = f", line {self.line}" if isinstance(self.source, Path) and self.line else ""
        return f"{self.source}{number}" + (f": {_short(self.text)}" if self.text else "")


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


@contextmanager
def at(place: Place | None) -> Iterator[None]:
    """Put the place beneath the message of a `UserError` raised within; None leaves it alone."""
    try:
        yield
    except UserError as error:
        raise (place.error(error.message) if place else error) from None


@dataclass(frozen=True)
class Import:
    """An import line: the module to load, and the line as written."""

    module: str
    line: str
    place: Place


@dataclass(frozen=True)
class Include:
    """An include line."""

    name: str
    place: Place


@dataclass(frozen=True)
class Binding:
    """`key = value`, the key as in `strategies.Dormant.period`; a macro's key has no dot."""

    key: str
    value: Any
    place: Place

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}"


class _Unresolved(config_parser.ParserDelegate):
    """Leaves references and macros as they are written."""

    def configurable_reference(self, name: str, evaluate: bool) -> Reference:
        return Reference(name, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


class _Parser(config_parser.ConfigParser):
    """gin's, but a dict that has a key twice is refused, where gin and Python keep the last in silence."""

    def __init__(self, text: str, source: Path | str) -> None:
        self._source, self._open = source, [set[Any]()]  # the keys so far of each dict that is not closed yet
        super().__init__(text, _Unresolved())

    def _maybe_parse_container(self) -> tuple[bool, Any]:
        self._open.append(set())
        try:
            return super()._maybe_parse_container()
        finally:
            self._open.pop()

    def _parse_dict_item(self) -> tuple[Any, Any]:
        key, value = super()._parse_dict_item()
        if key in self._open[-1]:
            line = self._current_token.start[0]
            raise Place(self._source, line).error(f"{key!r} is named twice: the second would replace the first.")
        self._open[-1].add(key)
        return key, value


def parse(text: str, source: Path | str) -> list[Binding | Import | Include]:
    """The statements in `text`, in order; blocks become bindings. Malformed text raises `UserError`."""
    found = []
    try:
        parser = _Parser(text, source)
        while (statement := parser.parse_statement()) is not None:
            if not isinstance(statement, config_parser.BlockDeclaration):
                found.append(_translated(statement, source))
    except (SyntaxError, tokenize.TokenError, TypeError, ValueError, StopIteration, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise _malformed(error, text, source) from None
    return found


def _translated(statement: Any, source: Path | str) -> Binding | Import | Include:
    line = statement.location.line_content.strip().split("\n")[0]
    place = Place(source, statement.location.line_num, line)
    if isinstance(statement, config_parser.ImportStatement):
        return Import(statement.module, statement.format(), place)
    if isinstance(statement, config_parser.IncludeStatement):
        return Include(statement.filename, place)
    if statement.scope:
        raise place.error(
            f"{statement.scope}/{statement.selector} has a scope, and lopbench uses none: write {statement.selector} "
            f"without '{statement.scope}/', and state differences in run.variants."
        )
    key = f"{statement.selector}.{statement.arg_name}" if statement.arg_name else statement.selector
    with at(place):
        check_size(statement.value, f"The value of {key}")
    return Binding(key, statement.value, place)


def _malformed(error: Exception, text: str, source: Path | str) -> UserError:
    """What is wrong with the syntax, and where: gin's and Python's tokenizer's own words, without the rest."""
    message, *details = error.args or ("it ends too early",)
    if isinstance(error, RecursionError):
        message = "its brackets are nested too deep"
    elif isinstance(error, UnicodeError):
        message, details = "it holds half a character", []
    lines = text.splitlines()
    number = getattr(error, "lineno", None) or (details[0][0] if details else int(len(lines) == 1))
    number = min(number, len(lines))  # the tokenizer may report the end of the text
    place = Place(source, number, lines[number - 1].strip() if number else "")
    token = re.search(r"Failed to parse token '(.*)'", str(message), re.DOTALL)
    if token:
        what = "is no value: a string needs quotes, and True, False and None begin with a capital letter."
        return place.error(f"{_short(token[1])} {what}")
    return place.error(f"This is no gin: {str(message).splitlines()[0].strip().rstrip('.')}.")


def map_value(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply `function` to the leaves of nested lists, tuples and dicts, keys included."""
    if isinstance(value, dict):
        return {map_value(function, key): map_value(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_value(function, item) for item in value)
    return function(value)


def check_size(value: Any, what: str) -> None:
    """Refuse lists, tuples and dicts that are nested too deep, or hold too much, for a configuration."""
    level, count = [value], 0
    for _ in range(DEEPEST + 1):
        items = chain.from_iterable(map(_items, level))
        level = list(islice(items, MOST_ITEMS + 1 - count))  # not all of them, which may be what is too much
        count += len(level)
        if count > MOST_ITEMS:
            raise UserError(f"{what} holds more than {MOST_ITEMS:,} items, which is too much for a configuration.")
        if not level:
            return
    raise UserError(f"{what} is nested more than {DEEPEST} levels deep.")


def _items(value: Any) -> Iterable[Any]:
    """What a list, tuple or dict holds, keys included; nothing for a leaf."""
    if isinstance(value, dict):
        return chain(value, value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list, tuple)):
        for item in _items(value):
            yield from _leaves(item)
    else:
        yield value


def is_text(value: str) -> bool:
    """Whether a string can be written to a file: escapes, and a shell's odd bytes, can make halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def names_in(value: Any, type_: type[Reference] | type[Macro]) -> list[str]:
    """The names of the references, or of the macros, within a value."""
    return [leaf.name for leaf in _leaves(value) if isinstance(leaf, type_)]


def render(bindings: dict[str, Any]) -> list[str]:
    """One line a binding, those of a component together, `run` first."""
    owners = list(dict.fromkeys(key.rpartition(".")[0] for key in bindings))
    order = {owner: (owner != "run", owners.index(owner)) for owner in owners}
    keys = sorted(bindings, key=lambda key: order[key.rpartition(".")[0]])
    return [f"{key} = {bindings[key]!r}" for key in keys]
