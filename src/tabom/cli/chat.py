"""`tabom chat MODEL`: talk to a model in the terminal and watch it decode."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from tabom.cli import speak
from tabom.core.errors import ConfigError, TabomError

HELP = (
    "/reset forgets what was said, /settings shows how responses are decoded and "
    "/settings temperature=0.2 changes it, /quit ends. A line that starts with // is sent with "
    "one slash."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom chat`."""
    parser.add_argument("--system", metavar="TEXT", help="a system message before the first turn")
    speak.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read lines until /quit or the end of the input.

    Returns: 0; 2 if a line that was read from a pipe or a file had an error.
    """
    from tabom.cli.live import Screen

    settings = speak.settings_of(args)
    speaker = speak.Speaker(model=settings.model.load(), screen=Screen(sys.stdout), seed=args.seed)
    start = [] if args.system is None else [{"role": "system", "content": args.system}]
    chat = Chat(speaker=speaker, settings=settings, start=start)
    if speaker.screen.is_live:
        speaker.screen.say(f"{settings.model.model_name_or_path}. {HELP}")
    is_right = True
    for line in _lines():
        try:
            if not chat.take(line.strip()):
                break
        except TabomError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            is_right = False
    return 0 if is_right or sys.stdin.isatty() else 2


@dataclass(kw_only=True)
class Chat:
    """What was said so far, and how the next response is decoded."""

    speaker: speak.Speaker
    settings: speak.Settings
    start: speak.Messages
    said: speak.Messages = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Answer a line or follow a command. Returns: False if the talk is over."""
        if line.startswith("/") and not line.startswith("//"):
            return self._command(line)
        if line:
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
        return True

    def _answer(self, text: str) -> None:
        said = [*self.said, {"role": "user", "content": text}]
        request = speak.request_of(self.speaker.model, self.start + said, f"turn {len(said)}")
        try:
            answer = self.speaker.speak(request, self.settings.decoding)
        except KeyboardInterrupt:
            self.speaker.screen.write("(stopped; this turn is forgotten)\n")
            return
        self.said = [*said, {"role": "assistant", "content": answer.response}]

    def _command(self, line: str) -> bool:
        write = self.speaker.screen.write
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(f"{line!r}: {error}") from error
        if name == "/quit":
            return False
        if name == "/reset":
            self.said = []
            write("nothing was said\n")
        elif name == "/settings":
            self.settings = self.settings.changed([f"decoding.{word}" for word in words])
            for key, value in vars(self.settings.decoding).items():
                write(f"{key}={'null' if value is None else value}\n")
        elif name == "/help":
            self.speaker.screen.say(HELP)
        else:
            raise ConfigError(f"{name} is no command. {HELP}")
        return True


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
