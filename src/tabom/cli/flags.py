"""Flags from the settings dataclasses: one source for names, types, defaults and help.

A flag `--learning_rate 1e-4` becomes the value 1e-4 at `training.learning_rate` of the recipe
mapping, so a verb reads flags, a YAML file and both together by one path: flags win. Its text is
converted by the field's type, never by YAML: `--template '# {prompt}'` is that text.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterable
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.core.text import without_flags

T = TypeVar("T")
# Fields whose name alone would not say what they belong to, so that a flag says it first.
_VAGUE = ("path", "function", "args", "num_workers")
_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", bool: "true|false", dict: "YAML"}


class _Formatter(argparse.HelpFormatter):
    """Help of at most 100 columns, in which a flag without a metavar shows its type."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=30, width=100, **options)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _METAVARS.get(action.type, "TEXT")


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes take two lines: how the verb is used, and what is wrong.

    A flag may be written with - for _ as well, and is never cut short.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The parsed flags; argparse asks the parser of a verb in the same way."""
        words = map(_underscored, sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(list(words), namespace)
        # An unknown flag is an error here and not at the top, for here its neighbours are known.
        if rest:
            name = rest[0].partition("=")[0]
            what = "flag" if name.startswith("-") else "argument"
            near = configs.nearest(name, self._option_string_actions)
            for action in self._actions:
                # What other verbs take as a flag: `tabom doctor --model_name_or_path FOLDER`.
                place = str(action.metavar or action.dest).upper()
                if not action.option_strings and name.upper().startswith(f"--{place}"):
                    near = f"; {place} stands without a flag"
            self.error(f"there is no {what} {name!r}{near}")
        return found, rest

    def format_usage(self) -> str:
        """What is needed, and that there is more: never all flags."""
        words = [self.prog]
        for action in self._actions:
            if action.required or not action.option_strings:
                name = str(action.metavar or action.dest.upper())
                words += [*action.option_strings[:1], f"[{name}]" if action.nargs == "?" else name]
        return f"usage: {' '.join([*words, '[FLAGS]'])}\n"

    def format_help(self) -> str:
        """The help, with the short usage on top."""
        # argparse would list every flag in the usage line, forty lines of it for `tabom train`.
        self.usage = self.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Two lines on stderr and exit status 2."""
        place = f"{self.prog}: error:"
        self.exit(2, f"{self.format_usage()}{place} {message} (`{self.prog} --help` tells more)\n")


def _underscored(word: str) -> str:
    """--learning-rate=1e-4 as --learning_rate=1e-4; values stay as they are."""
    name, equals, value = word.partition("=")
    is_flag = name.startswith("--") and not any(map(str.isspace, name))
    return ("--" + name[2:].replace("-", "_") if is_flag else name) + equals + value


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
            **options,
        )

    @property
    def help(self) -> str:  # type: ignore[override]
        """The text under the field, which is read from source only when it is shown."""
        return describe(self.settings, self.field).replace("%", "%%")

    @help.setter
    def help(self, value: str | None) -> None:
        """argparse says that there is none."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Convert the text, or say what is wrong with it and how the verb is used."""
        try:
            value = configs.from_text(values, self.hint, self.option_strings[0])
        except ConfigError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, value)


def metavar(hint: Any) -> str:
    """How a value of this type is shown: INT, TEXT, a|b|c."""
    kind, _ = configs.split(hint)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if _is_list(kind):
        return metavar(get_args(kind)[0])
    return _METAVARS.get(get_origin(kind) or kind, "TEXT")


def describe(settings: type, field: str) -> str:
    """The text under a settings field, with its bounds and its default."""
    (found,) = (f for f in dataclasses.fields(settings) if f.name == field)
    text = configs.field_help(settings).get(field, "")
    notes = list(map(str, configs.split(configs.hints_of(settings)[field])[1]))
    if found.default is not dataclasses.MISSING and found.default not in (None, "", ()):
        default = found.default if isinstance(found.default, tuple) else (found.default,)
        words = ("true" if v is True else "false" if v is False else str(v) for v in default)
        notes.append(f"default: {' '.join(words)}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _is_list(hint: Any) -> bool:
    """Whether a flag of this type takes several words."""
    return get_origin(configs.split(hint)[0]) in (list, tuple)


def add_section(
    parser: argparse.ArgumentParser, cls: type, section: str, *, skip: Iterable[str] = ()
) -> None:
    """Add a flag for every field of a settings dataclass.

    section: dotted path of the section in a recipe. skip: fields that have no flag.
    """
    group = parser.add_argument_group(section, (cls.__doc__ or "").partition("\n")[0])
    for field in dataclasses.fields(cls):
        if field.name not in skip:
            flag = f"{section}_{field.name}" if field.name in _VAGUE else field.name
            flag = section if field.name == "type" else flag
            add_field(group, cls, field.name, flag=flag, dest=f"{section}.{field.name}")


def add_field(parser: Any, cls: type, name: str, *, flag: str = "", **options: Any) -> None:
    """Add the flag of one field.

    parser: or a group of it. flag: what it is called, if not as the field. options: of argparse.
    """
    parser.add_argument(f"--{flag or name}", action=_Setting, settings=cls, field=name, **options)


_SET = "override a recipe value, e.g. --set training.learning_rate=1e-4 (repeatable)"
_COMMON: dict[str, dict[str, Any]] = {
    "recipe": {"help": "a recipe file, or the name of one of the package"},
    "--config": {"metavar": "RECIPE", "help": "a recipe file or a recipe's name"},
    "--set": {"dest": "overrides", "metavar": "KEY=VALUE", "action": "append", "help": _SET},
    "--output_dir": {"metavar": "DIR", "help": "where to write: a folder, or a URL (s3://, gs://)"},
    "--storage_options": {
        "metavar": "JSON",
        "type": lambda text: configs.from_text(text, dict[str, Any], "--storage_options"),
        "help": "of the file system behind a URL, as fsspec takes them",
    },
    "--overwrite": {"action": "store_true", "help": "replace what another recipe left there"},
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
    return found + (getattr(args, "overrides", None) or [])


def build(cls: type[T], args: argparse.Namespace, section: str = "") -> T:
    """The settings that the flags describe, where no recipe says anything.

    section: whose flags they are, where the class is one section alone.
    """
    mapping = configs.apply_overrides({}, overrides_of(args))
    return configs.build(cls, mapping.get(section, {}) if section else mapping)


def words(given: Iterable[str]) -> tuple[str, ...]:
    """Names that were separated by spaces or commas, each once."""
    return tuple(dict.fromkeys(name for text in given for name in text.split(",") if name))


def command() -> str:
    """The command of this process, for people; without storage options, which may hold keys."""
    return shlex.join(["tabom", *without_flags(sys.argv[1:], "storage_options")])


def need(value: Any, flag: str, why: str) -> Any:
    """The value, or a ConfigError that names the flag."""
    if value is None:
        raise ConfigError(f"{flag} is needed: {why}")
    return value
