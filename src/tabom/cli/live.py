"""A response on a terminal while it is decoded: drawn again at each step, coloured by certainty.

Legend: N response slots.
"""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
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
RAMP = ((0.3, 203), (0.5, 209), (0.7, 215), (0.85, 222), (0.95, 151), (0.99, 79))
SUREST = 38
FAINT, PLAIN, NEW = Style(dim=True), Style(), Style(underline=True)
LONGEST_CHARACTER = 4  # bytes of UTF-8, and so at most that many tokens
MASKED, ASCII = ("\u2591", "\u00b7"), (".", "-")  # open slot, slot past the end


@dataclass(kw_only=True)
class TokenTexts:
    """The text that each slot adds, where one character may be spread over several tokens."""

    tokenizer: Any
    _known: dict[tuple[int, ...], str] = field(default_factory=dict)

    def of(self, ids_N: Sequence[int], is_open_N: Sequence[bool]) -> list[str]:
        """A text for each slot; "" where open.

        Byte-level tokens are joined with their neighbours until they are whole characters: the
        first slot then shows it, the others are "". A part whose rest is still masked, or never
        comes, is U+FFFD.
        """
        texts, i = [""] * len(ids_N), 0
        while i < len(ids_N):
            width = 1
            if not is_open_N[i]:
                width = self._whole(ids_N, is_open_N, i)
                texts[i] = self._decode(ids_N[i : i + width])
            i += width
        return texts

    def _whole(self, ids_N: Sequence[int], is_open_N: Sequence[bool], i: int) -> int:
        for width in range(1, LONGEST_CHARACTER + 1):
            end = i + width
            if end > len(ids_N) or any(is_open_N[i:end]):
                break
            if "\ufffd" not in self._decode(ids_N[i:end]):
                return width
        return 1

    def _decode(self, ids: Sequence[int]) -> str:
        key = tuple(int(i) for i in ids)
        if key not in self._known:
            text = self.tokenizer.decode(list(key), skip_special_tokens=False)
            self._known[key] = safe(str(text)).replace("\t", "    ")
        return self._known[key]


def canvas_slots(
    view: "StepView",
    row: int,
    *,
    model: "MaskedDiffusionModel",
    texts: TokenTexts,
    glyphs: tuple[str, str] = MASKED,
) -> list[Slot]:
    """The slots of one row of a batch after a step; those that it revealed are underlined."""
    ids_N, is_open_N = view.response_ids_BN[row].tolist(), view.open_BN[row].tolist()
    special = {*model.ids.eos, model.ids.filler, model.ids.pad}
    slots: list[Slot] = []
    for n, text in enumerate(texts.of(ids_N, is_open_N)):
        if is_open_N[n]:
            slots.append((glyphs[0], FAINT))
        elif ids_N[n] in special:
            slots.append((glyphs[1], FAINT))
        else:
            style = certainty_style(float(view.confidence_BN[row, n]))
            is_new = view.step_BN[row, n] == view.step
            slots.append((text, style + NEW if is_new else style))
    return slots


def certainty_style(confidence: float) -> Style:
    """The colour of a probability at reveal; none for NaN."""
    if np.isnan(confidence):
        return PLAIN
    code = next((code for bound, code in RAMP if confidence < bound), SUREST)
    return Style(color=f"color({code})")


class Screen:
    """Where responses are shown: drawn as they come on a terminal, written once elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the encoding lacks becomes "?"
        self.stream = stream
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self.is_live = stream.isatty() and not self.console.is_dumb_terminal
        self._live: Live | None = None

    @property
    def glyphs(self) -> tuple[str, str]:
        """Signs for open and ended slots that the stream's encoding has."""
        return ASCII if self.console.options.ascii_only else MASKED

    def draw(self, slots: Sequence[Slot], status: str) -> None:
        """Show the slots and a status line over what was shown before."""
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        width, height = shutil.get_terminal_size()
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

    def say(self, text: str) -> None:
        """Write a paragraph, broken between words where it would be wider than the screen."""
        self.console.print(text, soft_wrap=not self.is_live)

    def write(self, text: str) -> None:
        """Write at once, as it is."""
        self.stream.write(text)
        self.stream.flush()

    def leave(self, slots: Sequence[Slot], note: str) -> None:
        """Leave a response in its colours, and a faint note under it."""
        # Not wrapped: the terminal does that, and so a selection copies the lines as they are.
        self.console.print(Text.assemble(*slots), soft_wrap=True)
        self.console.print(Text(note, style=FAINT))
