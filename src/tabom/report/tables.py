"""A table said once, and shown as terminal text, Markdown or (by the page) HTML."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tabom.core.errors import DataError

MINUS = "\N{MINUS SIGN}"

WIDTH = 100  # of a table where the terminal is wider, or there is none
MAX_NAME = 28  # columns; a longer name of a row is cut
STYLES = {"gain": "green", "loss": "red", "quiet": "dim", "best": "bold", "alarm": "bold red"}


@dataclass(frozen=True)
class Cell:
    """A text with a tone: one of `STYLES`, or nothing."""

    text: str
    tone: str = ""

    def __str__(self) -> str:
        return self.text


class Table:
    """Heads and rows of cells; the first `num_left` columns are words, the others numbers.

    A cell is a `Cell`, a sequence of them (shown beside each other), or any value that makes text.
    """

    def __init__(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
        note: str = "",
        num_left: int = 1,
    ) -> None:
        self.title, self.note, self.num_left = title, note, num_left
        self.heads = [plain(head) for head in heads]
        self.rows = [[_cells(value) for value in row] for row in rows]
        for row in self.rows:
            if len(row) != len(self.heads):
                raise DataError(
                    f"table {title!r}: a row of {len(row)} cells under {len(self.heads)} heads "
                    f"({', '.join(self.heads)})"
                )

    def __bool__(self) -> bool:
        return bool(self.rows)

    def texts(self) -> list[list[str]]:
        """The rows as plain texts."""
        return [[" ".join(str(cell) for cell in cells) for cells in row] for row in self.rows]

    def markdown(self) -> str:
        """A heading, the note and the table."""
        rules = ["---" if i < self.num_left else "---:" for i in range(len(self.heads))]
        lines = [self.heads, rules, *self.texts()]
        escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        head = f"## {self.title}\n\n" if self.title else ""
        note = f"{self.note}\n\n" if self.note else ""
        table = "".join("| " + " | ".join(line) + " |\n" for line in escaped)
        return (head + note + table).replace(MINUS, "-")

    def text(self, *, width: int = WIDTH, is_coloured: bool = False) -> str:
        """For a terminal: columns that do not fit beside each other follow in further blocks."""
        blocks = [self._block(columns) for columns in self._blocks(width)]
        parts = [*([self.title.upper()] if self.title else []), *blocks]
        text = "\n\n".join(_rendered(part, width, is_coloured) for part in parts)
        return text + (f"\n\n{_rendered(self.note, width, False)}" if self.note else "")

    def _blocks(self, width: int) -> list[list[int]]:
        """The columns of each block; the first column is repeated in all."""
        sizes = [
            2 + max(cell_len(head), *(sum(part) + len(part) - 1 for part in [self._parts(i)]))
            for i, head in enumerate(self.heads)
        ]
        first = min(sizes[0], MAX_NAME + 2)
        blocks, room = [[0]], width - first
        for i, size in enumerate(sizes[1:], start=1):
            if size > room and len(blocks[-1]) > 1:
                blocks.append([0])
                room = width - first
            blocks[-1].append(i)
            room -= size
        return blocks

    def _parts(self, i: int) -> list[int]:
        """How wide each part of a column's cells is."""
        sizes: list[int] = []
        for row in self.rows:
            for j, cell in enumerate(row[i]):
                sizes += [0] * (j + 1 - len(sizes))
                sizes[j] = max(sizes[j], cell_len(cell.text))
        return sizes

    def _block(self, columns: Sequence[int]) -> RichTable:
        table = RichTable(
            box=SIMPLE_HEAD,
            header_style="none",
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        parts = {i: self._parts(i) for i in columns}
        for i in columns:
            is_name = i == 0 and len(self.heads) > 2
            table.add_column(
                Text(self.heads[i]),
                # Parts are padded to stand below each other, so their column starts at the left.
                justify="left" if i < self.num_left or len(parts[i]) > 1 else "right",
                overflow="ellipsis" if is_name else "fold",
                max_width=MAX_NAME if is_name else None,
                no_wrap=is_name,
            )
        for row in self.rows:
            table.add_row(*(_styled(row[i], parts[i], is_words=i < self.num_left) for i in columns))
        return table


def _cells(value: Any) -> list[Cell]:
    parts = value if isinstance(value, list | tuple) else [value]
    cells = [part if isinstance(part, Cell) else Cell(str(part)) for part in parts]
    return [Cell(plain(cell.text), cell.tone) for cell in cells if cell.text]


def _styled(cells: Sequence[Cell], sizes: Sequence[int], *, is_words: bool) -> Text:
    texts = []
    for cell, size in zip(cells, sizes, strict=False):
        text = Text(cell.text, style=STYLES.get(cell.tone, ""))
        if not is_words and len(sizes) > 1:
            text.pad_left(size - cell_len(cell.text))
        texts.append(text)
    return Text(" ").join(texts)


def _rendered(part: Any, width: int, is_coloured: bool) -> str:
    """What rich prints, without spaces at the ends of lines and without an empty end."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=is_coloured,
        color_system="standard" if is_coloured else None,
        legacy_windows=False,
    )
    console.print(Text(plain(part)) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def plain(text: Any) -> str:
    """One line without control characters: a name must not be able to steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def show(*parts: "Table | str", stream: TextIO | None = None) -> None:
    """Print tables and sentences, in colour where that is wanted.

    Colour: only on a terminal, and never where NO_COLOR is set (https://no-color.org).
    """
    stream = stream or sys.stdout
    is_coloured = stream.isatty() and "NO_COLOR" not in os.environ
    from shutil import get_terminal_size

    width = max(60, min(get_terminal_size((WIDTH, 24)).columns, WIDTH))
    text = "\n\n".join(
        part.text(width=width, is_coloured=is_coloured)
        if isinstance(part, Table)
        else _rendered(part, width, False)
        for part in parts
        if part
    )
    text = text.replace(MINUS, "-")  # numbers that can be copied
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # A narrow console shows a "?" rather than ending a run of hours in an error.
        text = text.translate({ord("─"): "-", ord("–"): "-"})
        text = text.encode(encoding, "replace").decode(encoding)
    stream.write(text + "\n")
