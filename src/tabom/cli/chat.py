"""`tabom chat MODEL`: talk to a model in the terminal and watch it decode."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator

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
    chat, status = Chat(args), 0
    if chat.speaker.screen.is_live:
        chat.speaker.screen.say(f"{chat.speaker.model.name_or_path}. {HELP}")
    for line in _lines():
        try:
            if not chat.take(line.strip()):
                break
        except TabomError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = 2
    # A person saw each error as it came; a script has only the exit status.
    return 0 if sys.stdin.isatty() else status


class Chat:
    """What was said so far, and who responds."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Load the model; --system is what every talk begins with."""
        self.speaker = speak.Speaker(args)
        system = {"role": "system", "content": args.system}
        self.start: speak.Messages = [] if args.system is None else [system]
        self.said = self.start

    def take(self, line: str) -> bool:
        """Answer a line or follow a command. Returns: False if the talk is over."""
        if line.startswith("/") and not line.startswith("//"):
            return self._command(line)
        if line:
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
        return True

    def _answer(self, text: str) -> None:
        """Ask the model, with all that was said, and keep its answer as the next turn."""
        said = [*self.said, {"role": "user", "content": text}]
        request = self.speaker.request(said, f"turn {len(said)}")
        # Ctrl-C stops a response that goes wrong; the talk goes on as if it had not been asked.
        try:
            answer = self.speaker.speak(request)
        except KeyboardInterrupt:
            self.speaker.screen.write("(stopped; this turn is forgotten)\n")
            return
        self.said = [*said, {"role": "assistant", "content": answer.response}]

    def _command(self, line: str) -> bool:
        """Follow one command. Returns: False for /quit.

        Raises: ConfigError for a command that is not known, or quotes that are not closed.
        """
        write = self.speaker.screen.write
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(f"{line!r}: {error}") from error
        if name == "/reset":
            self.said = self.start
            write("what was said is forgotten\n")
        elif name == "/settings":
            changes = [f"decoding.{word}" for word in words]
            self.speaker.settings = self.speaker.settings.changed(changes)
            for key, value in vars(self.speaker.settings.decoding).items():
                write(f"{key}={value if isinstance(value, str) else json.dumps(value)}\n")
        elif name == "/help":
            write(HELP + "\n")
        elif name != "/quit":
            raise ConfigError(f"{name} is no command. {HELP}")
        return name != "/quit"


def _lines() -> Iterator[str]:
    """Lines of the user, with editing on a terminal; the end of the input ends them.

    Bytes that are no text, which tokenizers refuse, become "?".
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history)
    # Reading line by line keeps a pipe interactive: an answer comes before the next line is there.
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            line = input("> ") if sys.stdin.isatty() else next(sys.stdin, None)
            if line is None:
                return
            yield line.encode("utf-8", "replace").decode("utf-8")
    print()
