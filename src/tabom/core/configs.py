"""Plain values in, frozen dataclasses out: every setting is said once, under its field.

A field's name, type, default and help (the text literal under it) serve the recipe, the flags of
the verbs, their `--help` and the reference in docs/recipes.md. Every mistake names its place.
"""

import ast
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
from tabom.core.plain import fingerprint, to_plain
from tabom.core.yaml_text import load_yaml, parse_yaml

__all__ = [
    "Bound", "Count", "NonNegative", "Share", "apply_overrides", "build", "check", "field_help",
    "fingerprint", "from_text", "hints_of", "load_yaml", "members_of", "merge", "nearest",
    "to_plain",
]  # fmt: skip

T = TypeVar("T")
# "training.learning_rate=1e-4" (the value is YAML), or a dotted path and a value.
Override = str | tuple[str, Any]

_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_INT = 2**63  # beyond, numpy and Arrow cannot hold it
_SIGNS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">=": (operator.ge, "at least"),
    ">": (operator.gt, "above"),
    "<=": (operator.le, "at most"),
    "<": (operator.lt, "below"),
}
_short = reprlib.Repr()  # stops early, also in aliases of aliases that would print for ever
_short.maxstring = _short.maxother = 60


class KeyedError(ConfigError):
    """A ConfigError about one key.

    key: its dotted path, from which the file that says it is found.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit of a number, said in its field's type: `steps: Annotated[int, Bound(">=", 1)]`.

    `check` holds the field to it, and its help says it.
    """

    sign: Literal[">=", ">", "<=", "<"]
    limit: float

    def __contains__(self, value: float) -> bool:
        return _SIGNS[self.sign][0](value, self.limit)

    def __str__(self) -> str:
        return f"{_SIGNS[self.sign][1]} {self.limit:g}"


Count = Annotated[int, Bound(">=", 1)]
NonNegative = Annotated[float, Bound(">=", 0)]
Share = Annotated[float, Bound(">", 0), Bound("<=", 1)]


@cache
def hints_of(cls: Any, *, with_bounds: bool = False) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(cls, include_extras=with_bounds)


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, without None; of another type, itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for member in get_args(hint) if member is not type(None))
    return (hint,)


@cache
def field_help(cls: type) -> dict[str, str]:
    """The help of each field: the text literal under it, in the class or in one it inherits.

    It is read from the source, which costs milliseconds: only help and documents ask for it. An
    installation without sources has none.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for item, under in pairwise(definition.body):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(under, ast.Expr)
                and isinstance(under.value, ast.Constant)
                and isinstance(under.value.value, str)
            ):
                found[item.target.id] = " ".join(under.value.value.split())
    return found


def check(settings: Any) -> None:
    """Hold a settings object to its types: numbers finite and in bounds, choices among theirs.

    `build` has checked what it made; this is for objects that code makes, so `__post_init__` of
    every settings class calls it.
    Raises: ConfigError naming the field, what it may be and what was found.
    """
    for name, hint in hints_of(type(settings), with_bounds=True).items():  # type: ignore[arg-type]
        _check_value(getattr(settings, name, None), hint, name)


def _check_value(value: Any, hint: Any, name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise KeyedError(f"{name} must be a finite number, got {value}", name)
    for kind in members_of(hint):
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            for bound in args[1:]:
                if value is not None and value not in bound:
                    raise KeyedError(f"{name} must be {bound}, got {value}", name)
        elif origin is Literal and value is not None:
            _coerce_literal(value, args, name)
        elif origin is tuple and args[-1] is Ellipsis and isinstance(value, tuple):
            for item in value:
                _check_value(item, args[0], name)


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """A copy of the mapping with some values replaced.

    overrides: "training.learning_rate=1e-4", values as YAML, or ("training.learning_rate", 1e-4);
        lists by index, "arms.0.name=tabom". Missing mappings on the way are made; `build` finds a
        key that is not known.
    Raises: ConfigError for text without "=", a path through a plain value, an index out of range.
    """
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        path, value = override if isinstance(override, tuple) else _parsed(override)
        keys = path.split(".")
        target: Any = result
        for i, key in enumerate(keys):
            here = ".".join(keys[:i]) or "the top"
            slot: Any = key
            if isinstance(target, list):
                if not key.isdecimal() or int(key) >= len(target):
                    raise ConfigError(
                        f"override {path!r}: {here} is a list of {len(target)}; "
                        f"expected an index from 0 to {len(target) - 1}, found {key!r}"
                    )
                slot = int(key)
            elif not isinstance(target, dict):
                raise ConfigError(
                    f"override {path!r}: {here} is {_show(target)}, it has no {key!r}"
                )
            if i == len(keys) - 1:
                target[slot] = value
                break
            if isinstance(target, dict) and target.get(slot) is None:
                target[slot] = {}  # missing, or "training:" with nothing below it
            target = target[slot]
    return result


def _parsed(override: str) -> tuple[str, Any]:
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise ConfigError(f"override {override!r}: expected 'section.key=value'")
    try:
        return path, parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"override {override!r}: {text!r} is not valid YAML ({error})") from error


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


def build(
    cls: type[T],
    mapping: Mapping[str, Any],
    *,
    where: str = "",
    source: str | Callable[[str], str] = "",
) -> T:
    """A dataclass from a mapping, checked against its type hints.

    cls: a dataclass; fields may be nested dataclasses, `X | None`, `Literal`, `list[X]`,
        `tuple[X, ...]`, `dict[str, X]`, `Path`, int, float, bool, str.
    mapping: plain values. Numbers written as text (YAML 1.1 reads 1e-4 so) become numbers where
        the field is a number; a boolean is never a number.
    where: dotted path of the mapping in its file, "" at the top. source: the file, for messages,
        or a function from a dotted path to the file that says it.
    Raises: ConfigError for an unknown key (with the nearest known one), a missing key, a value of
        another type; and for what the dataclass itself refuses.
    """
    try:
        return _build(cls, mapping, where)
    except KeyedError as error:
        file = source(error.key) if callable(source) else source
        if not file:
            raise
        raise KeyedError(f"{file}: {error}", error.key) from error


def from_text(text: str | list[str], hint: Any, where: str) -> Any:
    """What the text of a flag means to a field of a type.

    text: one text, or several for a list. Text stays text, whatever YAML would make of it; a
        mapping is YAML; `null` is nothing, except where text is expected.
    hint: the field's type. where: the flag, for messages.
    Raises: ConfigError naming the flag, what it expects and what was found.
    """
    return _coerce(_read(text, hint, where), hint, where)


def _read(text: str | list[str], hint: Any, where: str) -> Any:
    members = members_of(hint)
    if str in members or Path in members:
        return text
    if text in ("null", ["null"]) and len(members) < len(get_args(hint)):
        return None
    kind = members[0]
    if isinstance(text, list):
        inner = get_args(kind)[0] if get_args(kind) else Any
        return [_read(item, inner, where) for item in text]
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    if kind is bool:
        return _WORDS.get(text.lower(), text)
    if kind in (int, float):
        return text
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {text!r}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def expand_home(settings: Any, *names: str) -> None:
    """Write the home folder for a leading ~ in fields that hold paths; for `__post_init__`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, os.path.expanduser(value))


def _build(cls: type[T], mapping: Any, where: str) -> T:
    if not isinstance(mapping, Mapping):
        raise KeyedError(
            f"{where or 'top level'}: expected a mapping, found {_show(mapping)}", where
        )
    hints = hints_of(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        place = _join(where, key)
        if key not in fields:
            raise KeyedError(
                f"unknown key {place!r}{nearest(str(key), fields)} (known: {', '.join(fields)})",
                place,
            )
        values[key] = _coerce(value, hints[key], place)
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            place = _join(where, name)
            raise KeyedError(f"missing key {place!r}: it has no default, set it", place)
    try:
        return cls(**values)
    except KeyedError as error:  # of `check`, which knows the field but not where it stands
        raise KeyedError(_join(where, error), _join(where, error.key)) from error
    except (ConfigError, ValueError, TypeError) as error:
        raise KeyedError(f"{where}: {error}" if where else str(error), where) from error


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, hint, where)
    if origin is Literal:
        return _coerce_literal(value, args, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        # "training:" with every line below it commented out is an empty section, not a null.
        return _build(hint, {} if value is None else value, where)
    if hint in (list, tuple) or origin in (list, tuple):
        return _coerce_sequence(value, origin or hint, args, where)
    if hint is dict or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping", where)
        inner = args[1] if args else Any
        return {str(k): _coerce(v, inner, _join(where, k)) for k, v in value.items()}
    if hint in (int, float):
        return _coerce_number(value, hint, where)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _wrong(value, _name(hint), where)


def _coerce_number(value: Any, hint: type, where: str) -> Any:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
            number = int(value) if "." not in value else number
        except ValueError:
            pass  # "1e3" is a whole number, "fast" is none
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _wrong(value, _EXPECTED[hint], where)
    if isinstance(number, int) and abs(number) >= _MAX_INT:
        raise _wrong(value, f"{_EXPECTED[hint]} of at most 63 bits", where)
    if hint is float:
        return float(number)
    if isinstance(number, float) and not number.is_integer():
        raise _wrong(value, _EXPECTED[int], where)
    return int(number)


def _coerce_union(value: Any, hint: Any, where: str) -> Any:
    members = members_of(hint)
    if value is None and len(members) < len(get_args(hint)):
        return None
    for member in members:  # a value that is right as it stands is never converted
        if type(value) is member:
            return value
    errors = []
    for member in members:
        try:
            return _coerce(value, member, where)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise _wrong(value, " or ".join(_name(m) for m in members), where)


def _coerce_literal(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    hint = nearest(str(value), map(str, choices))
    if isinstance(value, bool):
        hint = "; YAML reads on, off, yes and no as booleans: put the word in quotes"
    raise _wrong(value, f"one of {', '.join(repr(c) for c in choices)}", where, hint)


def _coerce_sequence(value: Any, kind: type, args: tuple[Any, ...], where: str) -> Any:
    if isinstance(value, Mapping) and args and _is_named(args[0]):
        return kind(_named(name, item, args[0], where) for name, item in value.items())
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, "a list", where)
    inner: list[Any] = [args[0] if args else Any] * len(value)
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _wrong(value, f"a list of {len(args)}", where)
        inner = list(args)
    items = zip(value, inner, strict=True)
    return kind(_coerce(v, h, f"{where}.{i}") for i, (v, h) in enumerate(items))


def _is_named(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and "name" in hints_of(hint)


def _named(name: str, item: Any, cls: Any, where: str) -> Any:
    """One thing of a list that is written as a mapping from names: `arms: {TABOM: {...}}`."""
    place = _join(where, name)
    if not isinstance(item, Mapping) and item is not None:
        raise _wrong(item, "a mapping", place)
    if "name" in (item or {}):
        raise KeyedError(f"{place}: its name is said already, by its key", _join(place, "name"))
    return _build(cls, {"name": name, **(item or {})}, place)


def _wrong(value: Any, expected: str, where: str, hint: str = "") -> KeyedError:
    return KeyedError(f"{where}: expected {expected}, found {_show(value)}{hint}", where)


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    kinds = {str: "text", int: "an integer", float: "a number", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    return f"{_short.repr(value)} ({kind})"


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(repr(c) for c in get_args(hint))
    names = {list: "a list", tuple: "a list", dict: "a mapping", Path: "a path"}
    return _EXPECTED.get(hint) or names.get(
        get_origin(hint) or hint, getattr(hint, "__name__", str(hint))
    )


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
