"""YAML and overrides in, frozen dataclasses out; every mistake names its place."""

import copy
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from tabom.core.errors import ConfigError
from tabom.core.plain import fingerprint, to_plain

__all__ = ["apply_overrides", "build", "fingerprint", "load_yaml", "require_finite", "to_plain"]

T = TypeVar("T")

_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


class _Loader(yaml.SafeLoader):
    """YAML whose mappings have text keys, each once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                text = getattr(key_node, "value", "?")
                raise ConfigError(f"line {line}: key {text!r} is not text; put it in quotes")
            if key_node.value in seen:
                raise ConfigError(
                    f"line {line}: key {key_node.value!r} is there already "
                    f"(line {seen[key_node.value]}); keep one"
                )
            seen[key_node.value] = line
        return super().construct_mapping(node, deep=deep)


def _parse(text: str) -> Any:
    try:
        content = yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except RecursionError as error:
        raise ConfigError("line 1: not valid YAML (nested too deeply)") from error
    _require_plain(content, "", (), set())
    return content


def _require_plain(value: Any, where: str, above: tuple[int, ...], seen: set[int]) -> None:
    """Refuse what YAML can say and a manifest cannot: dates, sets, bytes, a value inside itself."""
    place = where or "the top"
    if isinstance(value, (dict, list)):
        if id(value) in above:
            raise ConfigError(f"{place}: a YAML alias (*name) that contains itself")
        if id(value) in seen:  # an alias: looked at already
            return
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            _require_plain(inner, _join(where, key), (*above, id(value)), seen)
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigError(f"{place}: {value!r} is not valid Unicode text (a lone surrogate)")
    elif value is not None and not isinstance(value, (int, float)):
        kind = type(value).__name__
        raise ConfigError(
            f"{place}: {str(value)!r} is read as a {kind}; for text, put it in quotes"
        )


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Returns: the mapping, in the file's order.
    Raises: ConfigError naming file and line: missing file, bad YAML, a key that occurs twice or is
        not text, another top level.
    """
    try:
        content = _parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{place}: not valid YAML ({why})") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else _show(content)
        raise ConfigError(f"{path}, line 1: expected 'key: value' lines at the top, found {found}")
    return content


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of the mapping with some values replaced.

    overrides: "training.learning_rate=1e-4", values as YAML; lists by index, "arms.0.name=tabom".
        Missing mappings on the way are made; `build` finds a key that is not known.
    Raises: ConfigError for text without "=", a path through a plain value, an index out of range.
    """
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"override {override!r}: expected 'section.key=value'")
        try:
            value = _parse(text)
        except ConfigError as error:
            raise ConfigError(
                f"override {override!r}: {text!r} is not valid YAML ({error})"
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not valid YAML") from error
        target: Any = result
        for i, key in enumerate(keys):
            here = ".".join(keys[:i]) or "the top"
            slot: Any = key
            if isinstance(target, list):
                if not key.isdecimal() or int(key) >= len(target):
                    raise ConfigError(
                        f"override {override!r}: {here} is a list of {len(target)}; "
                        f"expected an index from 0 to {len(target) - 1}, found {key!r}"
                    )
                slot = int(key)
            elif not isinstance(target, dict):
                raise ConfigError(
                    f"override {override!r}: {here} is {_show(target)}, it has no {key!r}"
                )
            if i == len(keys) - 1:
                target[slot] = value
                break
            if isinstance(target, dict) and target.get(slot) is None:
                target[slot] = {}  # missing, or "training:" with nothing below it
            target = target[slot]
    return result


def build(cls: type[T], mapping: Mapping[str, Any], *, where: str = "", source: str = "") -> T:
    """A dataclass from a mapping, checked against its type hints.

    cls: a dataclass; fields may be nested dataclasses, `X | None`, `Literal`, `list[X]`,
        `tuple[X, ...]`, `dict[str, X]`, `Path`, int, float, bool, str.
    mapping: plain values. Numbers written as text (YAML 1.1 reads 1e-4 so) become numbers where
        the field is a number; a boolean is never a number.
    where: dotted path of the mapping in its file, "" at the top. source: the file, for messages.
    Raises: ConfigError for an unknown key (with the nearest known one), a missing key, a value of
        another type; and for what the dataclass itself refuses.
    """
    try:
        return _build(cls, mapping, where)
    except ConfigError as error:
        if not source:
            raise
        raise ConfigError(f"{source}: {error}") from error


def require_finite(settings: Any, where: str) -> None:
    """Raise ConfigError if a number of a settings object is NaN or infinite.

    settings: a dataclass instance. where: its name in messages, "training".
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where} {field.name} must be a finite number, got {value}")


def _build(cls: type[T], mapping: Any, where: str) -> T:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where or 'top level'}: expected a mapping, found {_show(mapping)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"unknown key {_join(where, key)!r}{hint} (known: {', '.join(fields)})"
            )
        values[key] = _coerce(value, hints[key], _join(where, key))
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            raise ConfigError(f"missing key {_join(where, name)!r}: it has no default, set it")
    try:
        return cls(**values)
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, args, where)
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
    if hint is type(None):
        if value is not None:
            raise _wrong(value, "null", where)
        return None
    if hint in (int, float):
        return _coerce_number(value, hint, where)
    if hint is Path:
        if not isinstance(value, (str, Path)):
            raise _wrong(value, "a path", where)
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _wrong(value, _name(hint), where)


def _coerce_number(value: Any, hint: type, where: str) -> Any:
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                raise _wrong(value, _EXPECTED[hint], where) from None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _wrong(value, _EXPECTED[hint], where)
    if hint is float:
        return float(number)
    if isinstance(number, float) and not number.is_integer():
        raise _wrong(value, _EXPECTED[int], where)
    return int(number)


def _coerce_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
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
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if isinstance(value, bool):
        hint = "; YAML reads on, off, yes and no as booleans: put the word in quotes"
    raise _wrong(value, f"one of {', '.join(repr(c) for c in choices)}", where, hint)


def _coerce_sequence(value: Any, kind: type, args: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, "a list", where)
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _wrong(value, f"a list of {len(args)}", where)
        inner = list(args)
    else:
        inner = [args[0] if args else Any] * len(value)
    items = zip(value, inner, strict=True)
    return kind(_coerce(v, h, f"{where}.{i}") for i, (v, h) in enumerate(items))


def _wrong(value: Any, expected: str, where: str, hint: str = "") -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, found {_show(value)}{hint}")


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    kinds = {str: "text", int: "an integer", float: "a number", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(repr(c) for c in get_args(hint))
    if hint in _EXPECTED:
        return _EXPECTED[hint]
    return {list: "a list", tuple: "a list", dict: "a mapping"}.get(
        get_origin(hint) or hint, getattr(hint, "__name__", str(hint))
    )


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
