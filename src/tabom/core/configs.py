"""Plain values in, frozen dataclasses out: every setting is said once, under its field.

A field's name, type, bounds, default and help (the text literal under it) serve the recipe, the
flags of the verbs, their `--help` and docs/recipes.md. Every mistake names its place.
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import inspect
import math
import operator
import os
import reprlib
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from tabom.core.errors import ConfigError
from tabom.core.place import place
from tabom.core.plain import fingerprint as fingerprint
from tabom.core.plain import to_plain as to_plain
from tabom.core.yaml_text import load_yaml as load_yaml
from tabom.core.yaml_text import parse_yaml

T = TypeVar("T")
# "training.learning_rate=1e-4" (the value is YAML), or a dotted path and a value.
Override = str | tuple[str, Any]

_KINDS: dict[Any, str] = {
    int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path",
    list: "a list", tuple: "a list", dict: "a mapping", Mapping: "a mapping",
}  # fmt: skip
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SIGNS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">=": (operator.ge, "at least"),
    ">": (operator.gt, "above"),
    "<=": (operator.le, "at most"),
    "<": (operator.lt, "below"),
}
_MAX_INT = 2**63  # beyond, numpy and Arrow cannot hold it
_short = reprlib.Repr()  # stops early, also in aliases of aliases that would print for ever
_short.maxstring = _short.maxother = 60
_brief = reprlib.Repr()
_brief.maxstring, _brief.maxother = 60, 400


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit of a number, said in its field's type: `steps: Annotated[int, Bound(">=", 1)]`."""

    sign: Literal[">=", ">", "<=", "<"]
    limit: float

    def __contains__(self, value: float) -> bool:
        return _SIGNS[self.sign][0](value, self.limit)

    def __str__(self) -> str:
        return f"{_SIGNS[self.sign][1]} {self.limit:g}"


Count = Annotated[int, Bound(">=", 1)]
NonNegative = Annotated[float, Bound(">=", 0)]
Share = Annotated[float, Bound(">", 0), Bound("<=", 1)]


# -- what a settings class says about its fields --


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name, with their bounds."""
    return typing.get_type_hints(cls, include_extras=True)


def split(hint: Any) -> tuple[Any, tuple[Bound, ...]]:
    """The one type of a field, without None, and the bounds of a number."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (member for member in get_args(hint) if member is not type(None))
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], get_args(hint)[1:]
    return hint, ()


@cache
def field_help(cls: type) -> dict[str, str]:
    """The help of each field: the text literal under it, in the class or in one it inherits.

    It is read from the source, which costs milliseconds: only help and documents ask for it. An
    installation without sources has none.
    """
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        # Python drops a text that stands under a field, so only the source still has it.
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for item, under in pairwise(body):
            if isinstance(item, ast.AnnAssign) and isinstance(under, ast.Expr):
                found[ast.unparse(item.target)] = " ".join(ast.literal_eval(under.value).split())
    return found


# -- mappings of plain values --


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """A copy of the mapping with some values replaced.

    overrides: "training.learning_rate=1e-4", values as YAML, or ("training.learning_rate", 1e-4).
        Things in a list go by index or by their name: "arms.0.name=x", "arms.TABOM.options={}".
        Missing mappings on the way are made; `build` finds a key that is not known.
    Raises: ConfigError for text without "=", a path through a plain value, an index out of range.
    """
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        path, value = override if isinstance(override, tuple) else _parsed(override)
        # Walk down to the mapping or the list that holds the last key.
        *above, last = path.split(".")
        target: Any = result
        for key in above:
            slot = _slot(target, key, path)
            if isinstance(target, dict) and target.get(slot) is None:
                target[slot] = {}  # missing, or "training:" with nothing below it
            target = target[slot]
        target[_slot(target, last, path)] = value
    return result


def _parsed(override: str) -> tuple[str, Any]:
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise ConfigError(f"override {override!r}: expected 'section.key=value'")
    return path, _yaml(text, f"override {override!r}")


def _yaml(text: str, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {text!r} is not valid YAML ({error})") from error


def _slot(target: Any, key: str, path: str) -> Any:
    """Where a key of an override is in a mapping or a list."""
    if not isinstance(target, (dict, list)):
        raise ConfigError(f"override {path!r}: {_show(target)} has no {key!r}")
    if isinstance(target, dict):
        # `arms.0` also finds the first arm where a recipe writes its arms as a mapping from names.
        is_index = key.isdecimal() and key not in target and int(key) < len(target)
        return list(target)[int(key)] if is_index else key
    names = [item.get("name") if isinstance(item, dict) else None for item in target]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(target):
        return int(key)
    raise ConfigError(
        f"override {path!r}: expected an index from 0 to {len(target) - 1} or a name, found {key!r}"
    )


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes on top: mappings are merged key by key, all else is replaced.

    A section without a line below it changes nothing.
    """
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, Mapping) and (value is None or isinstance(value, Mapping)):
            value = merge(below, value or {})
        result[key] = value
    return result


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known name that is nearest, or nothing."""
    known = list(known)
    begun = [k for k in known if k.startswith(name)] if len(name.strip("-")) > 2 else []
    near = begun or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


# -- plain values into types --


def build(
    cls: type[T],
    mapping: Mapping[str, Any],
    *,
    where: str = "",
    source: str | Callable[[str], str] = "",
) -> T:
    """A dataclass from a mapping, checked against its type hints.

    cls: a dataclass; fields may be nested dataclasses, `X | None`, `Literal`, `list[X]`,
        `tuple[X, ...]`, `dict[str, X]`, `Path`, int, float, bool, str. A list of dataclasses with
        a `name` may also be a mapping from their names.
    mapping: plain values. Numbers written as text (YAML 1.1 reads 1e-4 so) become numbers where
        the field is a number; a boolean is never a number.
    where: dotted path of the mapping in its file, "" at the top. source: the file, for messages,
        or a function from a dotted path to the file that says it.
    Raises: ConfigError for an unknown key (with the nearest known one), a missing key, a value of
        another type or out of bounds; and for what the dataclass itself refuses.
    """
    try:
        return _build(cls, mapping, where)  # type: ignore[no-any-return]
    except ConfigError as error:
        file = source(error.key) if callable(source) else source
        raise ConfigError(f"{file}: {error}" if file else str(error), error.key) from error


class Brief:
    """Base of dataclasses that show what differs from its default, long values cut."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            cls.__repr__ = Brief.__repr__  # type: ignore[method-assign]  # else `dataclass` adds one

    def __repr__(self) -> str:
        told = []
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, default = getattr(self, item.name), item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            if item.repr and (type(value) is not type(default) or value != default):
                told.append(f"{item.name}={_brief.repr(value)}")
        return f"{type(self).__name__}({', '.join(told)})"


class Settings(Brief):
    """Base of the settings dataclasses: one that code makes is held to its types, as `build` does.

    Raises: ConfigError naming the field, what it may be and what was found.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in hints_of(cls).items():
            _convert(getattr(self, name), hint, name)


def expand_home(settings: Any, *names: str) -> None:
    """Write the home folder for a leading ~ in fields that hold paths; for `__post_init__`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, os.path.expanduser(value))


def from_text(text: str | list[str], hint: Any, where: str) -> Any:
    """What the text of a flag means to a field of a type.

    text: one text, or several for a list. Text stays text, whatever YAML would make of it; a
        mapping is YAML; `null` is nothing, except where text is expected.
    hint: the field's type. where: the flag, for messages.
    Raises: ConfigError naming the flag, what it expects and what was found.
    """
    return _convert(_read(text, hint, where), hint, where)


def _read(text: str | list[str], hint: Any, where: str) -> Any:
    kind, _ = split(hint)
    # A text field has no word for nothing: `null` could be a template or a folder like any other.
    if text in ("null", ["null"]) and kind is not str and type(None) in get_args(hint):
        return None
    if isinstance(text, list):
        return [_read(item, get_args(kind)[0], where) for item in text]
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    if kind is bool:
        return _WORDS.get(text.lower(), text)
    return text if kind in (int, float, str, Path) else _yaml(text, where)


def _build(cls: Any, mapping: Any, where: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise _wrong(mapping, "a mapping", where or "top level")
    hints, values = hints_of(cls), {}
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key, value in mapping.items():
        place = _join(where, key)
        if key not in fields:
            known = f"{nearest(str(key), fields)} (known: {', '.join(fields)})"
            raise ConfigError(f"unknown key {place!r}{known}", place)
        values[key] = _convert(value, hints[key], place)
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            place = _join(where, name)
            raise ConfigError(f"missing key {place!r}: it has no default, set it", place)
    # What a class refuses by itself concerns the section as a whole, so its place is the section.
    try:
        return cls(**values)
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}" if where else str(error), where) from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    """The value as a type and in its bounds."""
    if value is None and type(None) in get_args(hint):
        return None
    kind, bounds = split(hint)
    value = _convert_kind(value, kind, where)
    for bound in bounds:
        if value not in bound:
            raise ConfigError(f"{where} must be {bound}, got {value}", where)
    return value


def _convert_kind(value: Any, hint: Any, where: str) -> Any:
    """The value as a type that has no bounds: the one place where types are looked at."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return value
    if kind is Literal:
        return _convert_choice(value, args, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        # "training:" with every line below it commented out is an empty section, not a null.
        empty = {} if value is None else value
        return value if isinstance(value, kind) else _build(kind, empty, where)
    if kind in (list, tuple):
        return kind(_convert_items(value, args[0] if args else Any, where))
    if kind in (dict, Mapping) and isinstance(value, Mapping):
        inner = args[1] if args else Any
        return {str(k): _convert(v, inner, _join(where, k)) for k, v in value.items()}
    # Numbers come before the general case below, because a boolean is an int to Python.
    if kind in (int, float):
        return _convert_number(value, kind, where)
    if kind is Path and isinstance(value, str):
        return place(value)
    # A URL has the methods of a path and is none.
    if isinstance(value, kind) or (kind is Path and hasattr(value, "relative_to")):
        return value
    raise _wrong(value, _KINDS.get(kind, kind.__name__), where)


def _convert_number(value: Any, kind: type, where: str) -> Any:
    number = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # "1e3" is a whole number, "fast" is none
            number = float(value)
            number = int(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _wrong(value, _KINDS[kind], where)
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{where} must be a finite number, got {value}", where)
    if abs(number) >= _MAX_INT and int in (kind, type(number)):
        raise _wrong(value, f"{_KINDS[kind]} of at most 63 bits", where)
    if kind is int and number != int(number):
        raise _wrong(value, _KINDS[int], where)
    return kind(number)


def _convert_choice(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:  # 1 and True are equal to Python, and different choices to a user
        if type(value) is type(choice) and value == choice:
            return choice
    near = nearest(str(value), map(str, choices))
    if isinstance(value, bool):
        near = "; YAML reads on, off, yes and no as booleans: put the word in quotes"
    raise _wrong(value, f"one of {', '.join(map(repr, choices))}", where, near)


def _convert_items(value: Any, hint: Any, where: str) -> list[Any]:
    is_named = isinstance(hint, type) and "name" in getattr(hint, "__dataclass_fields__", ())
    if isinstance(value, Mapping) and is_named:  # `arms: {TABOM: {...}}`
        own = _convert(value, dict[str, dict | None], where)
        return [
            _build(hint, {"name": name, **(item or {})}, _join(where, name))
            for name, item in own.items()
        ]
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, "a list", where)
    return [_convert(item, hint, f"{where}.{i}") for i, item in enumerate(value)]


def _wrong(value: Any, expected: str, where: str, near: str = "") -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, found {_show(value)}{near}", where)


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{_short.repr(value)} ({_KINDS.get(type(value), type(value).__name__)})"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
