"""A table said once, and shown as terminal text, Markdown or (by the page) HTML."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tabom.core.errors import DataError

WIDTH = 100  # of a table where the terminal is wider, or there is none
MAX_NAME = 28  # columns; a longer name of a row is cut
STYLES = {"gain": "green", "loss": "red", "quiet": "dim", "best": "bold"}
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A text with a tone: one of `STYLES`, or nothing."""

    text: str
    tone: str = ""


class Table:
    """Heads and rows of cells; the first `num_left` columns are words, the others numbers.

    rows: a cell is a `Cell` or any value that makes text. group: columns that stay beside each
    other where the table is broken. Raises: DataError for a row that has not a cell for each head.
    """

    def __init__(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
        note: str = "",
        num_left: int = 1,
        group: int = 1,
    ) -> None:
        self.title, self.note, self.num_left, self.group = title, note, num_left, group
        self.heads = [plain(head) for head in heads]
        self.rows = [[_cell(value) for value in row] for row in rows]
        # Numbers under wrong names are worse than no table.
        for row in self.rows:
            if len(row) != len(self.heads):
                raise DataError(
                    f"table {title!r}: a row of {len(row)} cells under {len(self.heads)} heads "
                    f"({', '.join(self.heads)})"
                )

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """A heading, the note and the table."""
        rules = ["---" if i < self.num_left else "---:" for i in range(len(self.heads))]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in [self.heads, *self.texts]]
        lines.insert(1, rules)
        head = f"## {self.title}\n\n" if self.title else ""
        note = f"{self.note}\n\n" if self.note else ""
        table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        return (head + note + table).replace(MINUS, "-")

    def blocks(self, width: int) -> Iterable[RichTable]:
        """For a terminal: columns that do not fit beside each other follow in further blocks."""
        sizes = [
            2 + max(map(cell_len, column)) for column in zip(self.heads, *self.texts, strict=True)
        ]
        sizes[0] = min(sizes[0], MAX_NAME + 2)
        lead = 1 + (len(sizes) - 1) % self.group  # the groups end with the last column
        columns = list(range(lead))
        for start in range(lead, len(sizes), self.group):
            wanted = range(start, start + self.group)
            if sum(sizes[i] for i in (*columns, *wanted)) > width and len(columns) > lead:
                yield self._block(columns)
                columns = [0]
            columns += wanted
        yield self._block(columns)

    def _block(self, columns: Sequence[int]) -> RichTable:
        table = RichTable(
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="none",
        )
        for i in columns:
            # Long names are cut, numbers never are.
            is_name = i == 0 and len(self.heads) > 2
            table.add_column(
                Text(self.heads[i]),
                justify="left" if i < self.num_left else "right",
                overflow="ellipsis" if is_name else "fold",
                max_width=MAX_NAME if is_name else None,
                no_wrap=is_name,
            )
        for row in self.rows:
            table.add_row(*(_text(row[i]) for i in columns))
        return table


def _cell(value: Any) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(str(value))
    return Cell(plain(cell.text), cell.tone)


def _text(cell: Cell) -> Text:
    return Text(cell.text, style=STYLES.get(cell.tone, "") if cell.text else "")


def plain(text: Any) -> str:
    """One line without control characters: a name must not be able to steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def rendered(*parts: Table | str, width: int = WIDTH, is_coloured: bool = False) -> str:
    """Tables and sentences as text of at most `width` columns, with an empty line between them."""
    # What rich writes is caught, for spaces at the ends of lines to go and minus signs to be
    # replaced by ones that can be copied.
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=is_coloured,
        color_system="standard" if is_coloured else None,
        legacy_windows=False,
    )
    texts = []
    for part in parts:
        shown = [part] if isinstance(part, str) else [part.title.upper(), *part.blocks(width)]
        shown += [] if isinstance(part, str) else [part.note]
        for item in shown if part else ():
            if item:
                with console.capture() as captured:
                    console.print(Text(plain(item)) if isinstance(item, str) else item)
                texts.append("\n".join(x.rstrip() for x in captured.get().rstrip().split("\n")))
    return "\n\n".join(texts).replace(MINUS, "-") + "\n"  # numbers that can be copied


def show(*parts: Table | str, stream: TextIO | None = None) -> None:
    """Print tables and sentences, in colour where that is wanted.

    Colour: only on a terminal, and never where NO_COLOR is set (https://no-color.org).
    """
    stream = stream or sys.stdout
    width = max(60, min(get_terminal_size((WIDTH, 24)).columns, WIDTH))
    is_coloured = stream.isatty() and "NO_COLOR" not in os.environ
    text = rendered(*parts, width=width, is_coloured=is_coloured)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # A narrow console shows a "?" rather than ending a run of hours in an error.
        text = text.translate({ord("─"): "-", ord("–"): "-"})
        text = text.encode(encoding, "replace").decode(encoding)
    stream.write(text)
