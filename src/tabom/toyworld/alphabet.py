"""The characters of the toy world and the sizes every other module agrees on."""

from __future__ import annotations

NUM_SLOTS = 16
"""Response slots of every task: the canvas is always this long, EOS fills what is left."""

NODES = "abcdefghij"
"""Ten nodes of a pointer map; also the letters of the reverse and sort tasks."""

SOURCES = NODES.upper()
"""A node where it is looked up (the key of a pair). Two cases, so a key is never a value."""

DIGITS = "123456789"
BLANK = "."
"""An empty sudoku cell in a prompt."""

EQUALS = "="
START = ":"
REVERSE = "<"
SORT = "/"
SUDOKU = "#"

CHARACTERS = NODES + SOURCES + DIGITS + BLANK + EQUALS + START + REVERSE + SORT + SUDOKU

POINTERS = tuple(source + target for source in SOURCES for target in NODES)
"""`Ad`: node a points to node d. One token: what it takes to read a map is then one look-up."""

EOS_CHAR = "_"
"""How an EOS slot is shown where text has one character a slot. Not in CHARACTERS."""
