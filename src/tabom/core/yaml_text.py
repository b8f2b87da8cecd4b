"""YAML as settings use it: plain values under text keys, each once, with errors that name lines."""

from typing import Any

import yaml

from tabom.core.errors import ConfigError
from tabom.core.place import Place, place

# Deeper than any recipe, and far from Python's own limit, which a file must not run into.
_MAX_DEPTH = 100
# What a manifest can hold. A date is text: the name of a data set's configuration may be one.
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_YAML = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """A SafeLoader whose mappings have text keys, each once, and whose errors are our own."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.depth >= _MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise ConfigError(f"line {line}: not valid YAML (nested too deeply)")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        # YAML itself takes the last of two equal keys and drops the first without a word.
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in (f"{_YAML}merge", f"{_YAML}str"):
                text = getattr(key, "value", "?")
                raise ConfigError(f"line {line}: key {text!r} is not text; put it in quotes")
            if key.value in seen:
                there = f"is there already (line {seen[key.value]})"
                raise ConfigError(f"line {line}: key {key.value!r} {there}; keep one")
            seen[key.value] = line
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            # Whole at once (deep), so that an alias inside itself is found.
            value = super().construct_object(node, deep=True)
            if isinstance(value, str):
                value.encode()  # half a character, "\\ud800", is text in no file
        except (ConfigError, yaml.YAMLError):
            raise
        except Exception as error:  # `!!int ''`, `!!bool x`, a number of 5,000 digits
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            why = f"{str(node.value)[:40]!r} is not a valid {kind}"
            raise ConfigError(f"line {line}: {why}") from error
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_YAML}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_YAML) in _KINDS
}


def parse_yaml(text: str) -> Any:
    """The plain value that a YAML text says.

    Raises: ConfigError that names the line or the key, for whatever a recipe cannot hold.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: no objects of Python
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        why = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}not valid YAML ({why})") from error


def load_yaml(path: Place) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Returns: the mapping, in the file's order.
    Raises: ConfigError naming file and line: missing file, bad YAML, a key that occurs twice or is
        not text, another top level.
    """
    try:
        content = parse_yaml(place(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            found = "nothing" if content is None else repr(content)[:60]
            raise ConfigError(f"line 1: expected 'key: value' lines at the top, found {found}")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or f"not UTF-8 text, {error}"
        raise ConfigError(f"{path}: cannot be read ({why})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from error
    return content
