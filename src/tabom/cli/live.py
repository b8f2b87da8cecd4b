"""A response on a terminal while it is decoded: drawn again at each step, coloured by certainty.

Legend: N response slots.
"""

import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tabom.cli.layout import char_columns, safe

if TYPE_CHECKING:
    from tabom.decoding.requests import StepView
    from tabom.models.contract import MaskedDiffusionModel

# Certainty below the bound -> colour of the 256: red over yellow to blue, which eyes that do not
# tell red from green still tell apart.
RAMP = ((0.3, 203), (0.5, 209), (0.7, 215), (0.85, 222), (0.95, 151), (0.99, 79))
SUREST = 38
FAINT, UNDERLINE, RESET = "2", "4", "\x1b[0m"
LONGEST_CHARACTER = 4  # bytes of UTF-8, and so at most that many tokens
MASKED, ENDED = ("\u2591", "\u00b7"), (".", "-")  # open slot, slot past the end; plain encodings


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One slot as it is shown: its text, and the code of its colour."""

    text: str
    code: str = ""


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
    """The slots of one row of a batch after a step."""
    ids_N, is_open_N = view.response_ids_BN[row].tolist(), view.open_BN[row].tolist()
    special = {*model.ids.eos, model.ids.filler, model.ids.pad}
    slots = []
    for n, text in enumerate(texts.of(ids_N, is_open_N)):
        if is_open_N[n]:
            slots.append(Slot(text=glyphs[0], code=FAINT))
        elif ids_N[n] in special:
            slots.append(Slot(text=glyphs[1], code=FAINT))
        else:
            code = certainty_code(float(view.confidence_BN[row, n]))
            is_new = view.step_BN[row, n] == view.step
            slots.append(Slot(text=text, code=f"{UNDERLINE};{code}" if is_new else code))
    return slots


def certainty_code(confidence: float) -> str:
    """The colour of a probability at reveal; none for NaN."""
    if np.isnan(confidence):
        return ""
    colour = next((code for bound, code in RAMP if confidence < bound), SUREST)
    return f"38;5;{colour}"


def wrap(slots: Sequence[Slot], *, width: int, is_coloured: bool) -> list[str]:
    """Lines of at most `width` columns; newlines in the text break lines as well."""
    lines: list[list[tuple[str, str]]] = [[]]
    room = width
    for slot in slots:
        for c in slot.text:
            if c == "\n":
                lines.append([])
                room = width
                continue
            size = char_columns(c)
            if size > room:
                lines.append([])
                room = width
            lines[-1].append((c, slot.code))
            room -= size
    return [_paint(line, is_coloured) for line in lines]


def _paint(line: Sequence[tuple[str, str]], is_coloured: bool) -> str:
    if not is_coloured:
        return "".join(c for c, _ in line)
    parts, now = [], ""
    for c, code in line:
        if code != now:
            parts.append((RESET if now else "") + (f"\x1b[{code}m" if code else ""))
            now = code
        parts.append(c)
    return "".join(parts) + (RESET if now else "")


@dataclass(kw_only=True)
class Screen:
    """A block of lines at the bottom of a terminal that is drawn over again and again.

    is_live: whether anything is drawn before the end: only on a terminal that can move its cursor.
    is_coloured: is_live, and NO_COLOR is not set (https://no-color.org).
    """

    stream: TextIO
    is_live: bool
    is_coloured: bool
    _height: int = 0

    @classmethod
    def of(cls, stream: TextIO) -> "Screen":
        is_live = stream.isatty() and os.environ.get("TERM", "") != "dumb"
        is_coloured = is_live and "NO_COLOR" not in os.environ
        return cls(stream=stream, is_live=is_live, is_coloured=is_coloured)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines that a block may have, never the last of either."""
        found = shutil.get_terminal_size((80, 24))
        return max(found.columns - 1, 8), max(found.lines - 2, 2)

    @property
    def glyphs(self) -> tuple[str, str]:
        """Signs for open and ended slots that the stream's encoding has."""
        try:
            "".join(MASKED).encode(self.stream.encoding or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return ENDED
        return MASKED

    def draw(self, slots: Sequence[Slot], status: str) -> None:
        """Show the slots and a status line over what was shown before."""
        width, height = self.size
        lines = wrap(slots, width=width, is_coloured=self.is_coloured)
        if len(lines) >= height:  # what has scrolled away cannot be drawn over
            lines = self._around_last_reveal(slots, width, height)
        status_line = wrap(
            [Slot(text=status, code=FAINT)], width=width, is_coloured=self.is_coloured
        )
        self._show([*lines, status_line[0]])

    def _around_last_reveal(self, slots: Sequence[Slot], width: int, height: int) -> list[str]:
        new = [n for n, slot in enumerate(slots) if slot.code.startswith(UNDERLINE)]
        before = wrap(slots[: new[0] + 1 if new else 1], width=width, is_coloured=False)
        lines = wrap(slots, width=width, is_coloured=self.is_coloured)
        shown = height - 1
        start = min(max(len(before) - 1 - shown // 2, 0), len(lines) - shown)
        return lines[start : start + shown]

    def _show(self, lines: Sequence[str]) -> None:
        up = f"\x1b[{self._height}A" if self._height else "\x1b[?25l"
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        self.write(f"{up}\r{body}\x1b[J")
        self._height = len(lines)

    def say(self, text: str) -> None:
        """Write a paragraph, broken between words where it would be wider than the screen."""
        width, _ = self.size
        self.write("\n".join(textwrap.wrap(text, width)) + "\n" if self.is_live else text + "\n")

    def clear(self) -> None:
        """Take the block away and show the cursor again."""
        if self._height:
            self.write(f"\x1b[{self._height}A\r\x1b[J\x1b[?25h")
            self._height = 0

    def write(self, text: str) -> None:
        """Write at once; what the encoding lacks becomes "?"."""
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(text.encode(encoding, "replace").decode(encoding))
        self.stream.flush()
