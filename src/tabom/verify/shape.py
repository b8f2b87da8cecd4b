r"""What an answer is made of: a tuple, a set, a list, a matrix, a union, or one expression."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["scalar", "tuple", "set", "list", "matrix", "union"]
_MATRIX = re.compile(
    r"\(?\s?\\begin\s?\{([pb]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\s?\{\1\}\s?\)?", re.S
)
_SEPARATOR = re.compile(r",(?!\d{3}(?!\d))|,\s|\band\b|\bor\b|;")
_LONGEST = 40  # parts; a longer list is a decoder that repeats itself


@dataclass(frozen=True)
class Shape:
    """kind: what it is. text: as it is written. brackets: around a tuple. parts: in their order;
    of a matrix its cells, row by row, with `width` cells in a row.
    """

    kind: Kind
    text: str = ""
    brackets: str = ""
    parts: tuple["Shape", ...] = ()
    width: int = 0

    @property
    def is_unordered(self) -> bool:
        return self.kind in ("set", "list", "union")


def read_shape(text: str) -> Shape:
    """The shape of an answer; parts are read the same way."""
    text = text.strip()
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None and matrix[2].count("\\begin") == 0:
        rows = [row for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        cells = [row.split("&") for row in rows]
        if cells and len({len(row) for row in cells}) == 1:
            parts = tuple(read_shape(cell) for row in cells for cell in row)
            return Shape("matrix", text, parts=parts, width=len(cells[0]))
    name = re.match(r"[A-Za-z](?:_\w)?\s?\\in\b\s?(?=[(\[\\{])", text)
    if name is not None:
        text = text[name.end() :].strip()
    union = _split(text, re.compile(r"\\cup\b"))
    if len(union) > 1:
        return Shape("union", text, parts=tuple(map(read_shape, union)))
    if text.startswith(r"\{") and text.endswith(r"\}") and _wraps(text[1:]):
        inside = text[2:-2]
        if not re.search(r"\\mid|\||:", inside):
            return Shape("set", text, parts=_expanded(_split(inside, re.compile(",|;"))))
        return Shape("scalar", text)
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _wraps(text):
        items = tuple(map(read_shape, _split(text[1:-1], re.compile(","))))
        if len(items) > 1:
            return Shape("tuple", text, text[0] + text[-1], items)
        if text[0] + text[-1] == "()" and not re.fullmatch(r"\(\s?[A-Za-z]\s?\)", text):
            return read_shape(text[1:-1])
    if re.fullmatch(r"-?\$?\s?\d{1,3}(?:,\d{3})+(?:\.\d+)?[^,]*", text):
        return Shape("scalar", text)
    listed = _expanded(_split(text, _SEPARATOR))
    if len(listed) > 1:
        return Shape("list", text, parts=listed)
    return Shape("scalar", text)


def _expanded(parts: list[str]) -> tuple[Shape, ...]:
    """The parts as shapes; one with a single plus or minus is two."""
    shapes: list[Shape] = []
    for part in parts:
        if part.count(r"\pm") == 1:
            before, after = part.split(r"\pm")
            plus = after if not before.strip() or before.rstrip().endswith("=") else f"+{after}"
            shapes += [Shape("scalar", f"{before}{sign}".strip()) for sign in (plus, f"-{after}")]
        elif len(parts) == 1:
            shapes.append(Shape("scalar", part))
        else:
            shapes.append(read_shape(part))
    return tuple(shapes)


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The text cut at a separator that stands in no bracket."""
    inside = _depths(text)
    parts, start = [], 0
    for match in separator.finditer(text):
        if inside[match.start()] == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    # "3, and 4" has an empty part between its two separators.
    found = [part for part in parts if part]
    return found if len(found) <= _LONGEST else [text]


def _depths(text: str) -> list[int]:
    """How many brackets are open at each character."""
    depths, depth = [], 0
    for character in text:
        if character in ")]}":
            depth = max(0, depth - 1)
        depths.append(depth)
        if character in "([{":
            depth += 1
    return depths


def _wraps(text: str) -> bool:
    """Whether the first bracket is closed by the last; those of an interval may differ."""
    return all(depth > 0 for depth in _depths(text)[1:-1])
