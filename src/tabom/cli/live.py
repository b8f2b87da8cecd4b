"""A response on a terminal while it is decoded: drawn again at each step, coloured by certainty.

Legend: N response slots.
"""

import io
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Text

from tabom.core.text import safe

if TYPE_CHECKING:
    from tabom.decoding.requests import StepView
    from tabom.models.contract import MaskedDiffusionModel

Slot = tuple[str, Style]  # the text that a slot adds, and how it is shown

# Certainty below the bound -> colour of the 256: red over yellow to blue, which eyes that do not
# tell red from green still tell apart.
RAMP = ((0.3, 203), (0.5, 209), (0.7, 215), (0.85, 222), (0.95, 151), (0.99, 79), (math.inf, 38))
FAINT, PLAIN, NEW = Style(dim=True), Style(), Style(underline=True)
LONGEST_CHARACTER = 4  # bytes of UTF-8, and so at most that many tokens
MASKED, ASCII = ("\u2591", "\u00b7"), (".", "-")  # open slot, slot past the end


def token_texts(tokenizer: Any, ids_N: Sequence[int], is_open_N: Sequence[bool]) -> list[str]:
    """The text that each slot adds; "" where open.

    Byte-level tokens are joined with their neighbours until they are whole characters: the first
    slot then shows it, the others are "". A part whose rest is still masked, or never comes, is
    U+FFFD.
    """
    texts, i = [""] * len(ids_N), 0
    while i < len(ids_N):
        width, text = (1, "") if is_open_N[i] else _character(tokenizer, ids_N, is_open_N, i)
        texts[i] = safe(text).replace("\t", "    ")
        i += width
    return texts


def _character(
    tokenizer: Any, ids_N: Sequence[int], is_open_N: Sequence[bool], i: int
) -> tuple[int, str]:
    """The fewest tokens from slot i that are whole characters together; else one, as it is."""
    alone = ""
    for width in range(1, LONGEST_CHARACTER + 1):
        if i + width > len(ids_N) or any(is_open_N[i : i + width]):
            break
        text = str(tokenizer.decode(ids_N[i : i + width], skip_special_tokens=False))
        if "\ufffd" not in text:
            return width, text
        alone = alone or text
    return 1, alone


def canvas_slots(
    view: "StepView", *, model: "MaskedDiffusionModel", glyphs: tuple[str, str] = MASKED
) -> list[Slot]:
    """The slots of the first row of a batch after a step; those that it revealed are underlined."""
    ids_N, is_open_N = view.response_ids_BN[0].tolist(), view.open_BN[0].tolist()
    special = {*model.ids.eos, model.ids.filler, model.ids.pad}
    slots: list[Slot] = []
    for n, text in enumerate(token_texts(model.tokenizer, ids_N, is_open_N)):
        if is_open_N[n]:
            slots.append((glyphs[0], FAINT))
        elif ids_N[n] in special:
            slots.append((glyphs[1], FAINT))
        else:
            style = certainty_style(float(view.confidence_BN[0, n]))
            slots.append((text, style + NEW if view.step_BN[0, n] == view.step else style))
    return slots


def certainty_style(confidence: float) -> Style:
    """The colour of a probability at reveal; none for NaN."""
    code = next((code for bound, code in RAMP if confidence < bound), None)
    return PLAIN if code is None else Style(color=f"color({code})")


class Screen:
    """Where responses are shown: drawn as they come on a terminal, written once elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        """Look at what the stream can show; a terminal may be dumb, or know ASCII alone."""
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the encoding lacks becomes "?"
        self.stream = stream
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self.is_live = stream.isatty() and not self.console.is_dumb_terminal
        self.glyphs = ASCII if self.console.options.ascii_only else MASKED
        self._live: Live | None = None

    def draw(self, slots: Sequence[Slot], status: str) -> None:
        """Show the slots and a status line over what was shown before."""
        if self._live is None:
            # Each step draws by itself; a second thread would draw half-filled canvases.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        width, height = shutil.get_terminal_size()
        # The canvas is wrapped here and not by the terminal, which would spoil the count of lines.
        lines = list(Text.assemble(*slots).wrap(self.console, width))
        room = max(height - 2, 1)
        if len(lines) > room:  # what has scrolled away cannot be drawn over
            new = next((n for n, (_, style) in enumerate(slots) if style.underline), 0)
            until_new = Text.assemble(*slots[: new + 1]).wrap(self.console, width)
            start = min(max(len(until_new) - 1 - room // 2, 0), len(lines) - room)
            lines = lines[start : start + room]
        below = Text(status, style=FAINT, no_wrap=True, overflow="ellipsis")
        self._live.update(Group(*lines, below), refresh=True)

    def clear(self) -> None:
        """Take the drawing away and show the cursor again."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str | Text) -> None:
        """Write a line; the terminal wraps it, so that a selection copies it as it is."""
        self.console.print(text, soft_wrap=True)

    def write(self, text: str) -> None:
        """Write at once, byte for byte."""
        self.stream.write(text)
        self.stream.flush()
