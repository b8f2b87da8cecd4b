"""`tabom chat MODEL`: talk to a model in the terminal and watch it decode."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tabom.cli import flags, speak

if TYPE_CHECKING:
    from tabom.cli.live import Screen
    from tabom.decoding.config import DecodingConfig
    from tabom.models.contract import MaskedDiffusionModel

HELP = (
    "/reset forgets what was said, /settings shows how responses are decoded and "
    "/settings temperature=0.2 changes it, /quit ends. A line that starts with // is sent with "
    "one slash."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom chat`."""
    speak.add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the first turn")
    speak.add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read lines until /quit or the end of the input."""
    from tabom.cli.live import Screen

    decoding = speak.decoding_of(flags.overrides_of(args))
    model = speak.open_model(args)
    screen = Screen.of(sys.stdout)
    start = [] if args.system is None else [{"role": "system", "content": args.system}]
    chat = Chat(model=model, decoding=decoding, seed=args.seed, screen=screen, start=start)
    if screen.is_live:
        screen.say(f"{model.name_or_path}. {HELP}")
    for line in _lines():
        if not chat.take(line):
            break
    return 0


@dataclass(kw_only=True)
class Chat:
    """What was said so far, and how the next response is decoded."""

    model: "MaskedDiffusionModel"
    decoding: "DecodingConfig"
    seed: int
    screen: "Screen"
    start: speak.Messages
    said: speak.Messages = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Answer a line or follow a command. Returns: False if the talk is over."""
        from tabom.core.errors import TabomError

        line = line.strip()
        if not line:
            return True
        try:
            if line.startswith("/") and not line.startswith("//"):
                return self._command(line)
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
        except TabomError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return True

    def _answer(self, text: str) -> None:
        said = [*self.said, {"role": "user", "content": text}]
        request = speak.request_of(self.model, [*self.start, *said], f"turn {len(said)}")
        try:
            answer = speak.speak(
                self.model, request, self.decoding, seed=self.seed, screen=self.screen
            )
        except KeyboardInterrupt:
            self.screen.write("(stopped; this turn is forgotten)\n")
            return
        self.said = [*said, {"role": "assistant", "content": answer.response}]

    def _command(self, line: str) -> bool:
        from tabom.core.errors import ConfigError

        name, *words = _split(line)
        if name == "/quit":
            return False
        if name == "/reset":
            self.said = []
            self.screen.write("nothing was said\n")
        elif name == "/settings":
            self.decoding = speak.decoding_of([f"decoding.{w}" for w in words], self.decoding)
            for key, value in vars(self.decoding).items():
                self.screen.write(f"{key}={'null' if value is None else value}\n")
        elif name == "/help":
            self.screen.say(HELP)
        else:
            raise ConfigError(f"{name} is no command. {HELP}")
        return True


def _split(line: str) -> list[str]:
    from tabom.core.errors import ConfigError

    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"{line!r}: {error}") from error


def _lines() -> Iterator[str]:
    """Lines of the user, with editing on a terminal; the end of the input ends them."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield _text(line)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history)
    while True:
        try:
            yield _text(input("> "))
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _text(line: str) -> str:
    """The line without bytes that are no text, which tokenizers refuse."""
    return line.encode("utf-8", "replace").decode("utf-8")
