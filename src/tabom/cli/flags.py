"""Flags from the settings dataclasses: one source for names, types, defaults and help.

A flag `--learning_rate 1e-4` becomes the value 1e-4 at `training.learning_rate` of the recipe
mapping, so a verb reads flags, a YAML file and both together by one path: flags win. Its text is
converted by the field's type, never by YAML: `--template '# {prompt}'` is that text.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, get_args, get_origin

from tabom.core import configs
from tabom.core.errors import ConfigError

_METAVARS = {int: "INT", float: "NUMBER", bool: "true|false", dict: "YAML"}


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes take two lines: how the verb is used, and what is wrong.

    A flag may be written with - for _ as well, and is never cut short.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The parsed flags; one that is not known is an error of the verb that was called."""
        words = map(_underscored, sys.argv[1:] if args is None else args)
        found, rest = self.parse_known_args(list(words), namespace)
        # Abbreviations are off: `--learning_rat` must not silently mean another flag.
        if rest:
            parser = self._called(found)
            name = rest[0].partition("=")[0]
            what = "flag" if name.startswith("-") else "argument"
            near = configs.nearest(name, parser._option_string_actions)
            parser.error(f"there is no {what} {name!r}{near}")
        return found

    def _called(self, found: argparse.Namespace) -> "Parser":
        """The parser of the verb that was called: argparse leaves unknown flags to the top one."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                verb = getattr(found, action.dest, None)
                if verb in action.choices:
                    return action.choices[verb]._called(found)  # type: ignore[no-any-return]
        return self

    def format_usage(self) -> str:
        """What is needed, and that there is more: never all flags."""
        words = [self.prog]
        for action in self._actions:
            if action.required or not action.option_strings:
                name = str(action.metavar or action.dest.upper())
                words += [*action.option_strings[:1], f"[{name}]" if action.nargs == "?" else name]
        return f"usage: {' '.join([*words, '[FLAGS]'])}\n"

    def format_help(self) -> str:
        # argparse would list every flag in the usage line, forty lines of it for `tabom train`.
        self.usage = self.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        place = f"{self.prog}: error:"
        self.exit(2, f"{self.format_usage()}{place} {message} (`{self.prog} --help` tells more)\n")


def _underscored(word: str) -> str:
    """--learning-rate=1e-4 as --learning_rate=1e-4; values stay as they are."""
    name, equals, value = word.partition("=")
    is_flag = name.startswith("--") and not any(map(str.isspace, name))
    return ("--" + name[2:].replace("-", "_") if is_flag else name) + equals + value


class _Help(argparse.HelpFormatter):
    """Help that reads the text under a settings field only when it is shown."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return help_of(action).replace("%", "%%")


class _Setting(argparse.Action):
    """A flag of a settings field: keeps the value that its text means to the field's type."""

    def __init__(self, *, settings: type, field: str, **options: Any) -> None:
        self.settings, self.field = settings, field
        self.hint = configs.hints_of(settings)[field]
        super().__init__(
            nargs="+" if _is_list(self.hint) else None,
            metavar=metavar(self.hint),
            # A flag that was not given leaves no trace, so that a recipe's value stays in force.
            default=argparse.SUPPRESS,
            help=field,  # a placeholder: the formatter asks `help_of` only if help is shown
            **options,
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            value = configs.from_text(values, self.hint, self.option_strings[0])
        except ConfigError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, value)


def metavar(hint: Any) -> str:
    """How a value of this type is shown: INT, TEXT, a|b|c."""
    kind = configs.members_of(hint)[0]
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if _is_list(kind):
        return metavar(get_args(kind)[0])
    return _METAVARS.get(get_origin(kind) or kind, "TEXT")


def help_of(action: argparse.Action) -> str:
    """What `--help` says about a flag."""
    if isinstance(action, _Setting):
        return describe(action.settings, action.field)
    return action.help or ""


def describe(settings: type, field: str) -> str:
    """The text under a settings field, with its bounds and its default."""
    (found,) = (f for f in dataclasses.fields(settings) if f.name == field)
    text = configs.field_help(settings).get(field, "")
    notes = list(map(str, configs.bounds_of(configs.hints_of(settings)[field])))
    if found.default is not dataclasses.MISSING and found.default not in (None, ""):
        default = found.default if isinstance(found.default, tuple) else (found.default,)
        words = ("true" if v is True else "false" if v is False else str(v) for v in default)
        notes.append(f"default: {' '.join(words)}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _is_list(hint: Any) -> bool:
    return get_origin(configs.members_of(hint)[0]) in (list, tuple)


def add_section(
    parser: argparse.ArgumentParser,
    cls: type,
    section: str,
    *,
    rename: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Add a flag for every field of a settings dataclass.

    section: dotted path of the section in a recipe. rename: field -> flag where names would clash.
    """
    group = parser.add_argument_group(section, (cls.__doc__ or "").partition("\n")[0])
    for field in dataclasses.fields(cls):
        if field.name not in skip:
            flag = (rename or {}).get(field.name, field.name)
            add_field(group, cls, field.name, flag=flag, dest=f"{section}.{field.name}")


def add_field(parser: Any, cls: type, name: str, *, flag: str = "", **options: Any) -> None:
    """Add the flag of one field.

    parser: or a group of it. flag: what it is called, if not as the field. options: of argparse.
    """
    parser.add_argument(f"--{flag or name}", action=_Setting, settings=cls, field=name, **options)


_COMMON: dict[str, dict[str, Any]] = {
    "recipe": {"help": "a recipe file, or the name of one of the package"},
    "--config": {"metavar": "RECIPE", "help": "a recipe file or a recipe's name"},
    "--set": {
        "dest": "overrides",
        "metavar": "KEY=VALUE",
        "action": "append",
        "default": [],
        "help": "override a recipe value, e.g. --set training.learning_rate=1e-4 (repeatable)",
    },
    "--output_dir": {"metavar": "DIR", "help": "where to write"},
    "--overwrite": {
        "action": "store_true",
        "help": "replace what another recipe left in output_dir",
    },
    "--quiet": {"action": "store_true", "help": "no progress bars"},
}


def add_common(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add arguments that several verbs have: recipe, --config, --set, ..."""
    for name in names:
        parser.add_argument(name, **_COMMON[name])


def overrides_of(args: argparse.Namespace) -> list[configs.Override]:
    """The overrides that a parsed command line asks for, in the order flags, then --set."""
    # Settings are the arguments with a dotted name; what a verb has of its own has none.
    found: list[configs.Override] = [(k, v) for k, v in vars(args).items() if "." in k]
    return found + list(getattr(args, "overrides", []))


def need(value: Any, flag: str, why: str) -> Any:
    """The value, or a ConfigError that names the flag."""
    if value is None:
        raise ConfigError(f"{flag} is needed: {why}")
    return value
