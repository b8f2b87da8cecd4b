import dataclasses
import io
import re

import pytest
from rich.cells import cell_len

from tabom.core.errors import DataError
from tabom.report.contents import arms_table, comparison_tables
from tabom.report.data import Report
from tabom.report.tables import MINUS, Cell, Table, rendered, show
from tabom.report.words import facts, fixed, headline

ANSI = re.compile(r"\x1b\[[\d;]+m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(report, *, stream=None):
    stream = stream or io.StringIO()
    show(
        f"{report.name}: {', '.join(facts(report).values())}",
        headline(report),
        arms_table(report, report.columns),
        stream=stream,
    )
    return stream.getvalue()


def test_a_row_of_another_length_is_refused():
    with pytest.raises(DataError, match="3 cells under 2 heads"):
        Table(["a", "b"], [[1, 2], [1, 2, 3]], title="t")


@pytest.mark.parametrize("width", [60, 72, 100])
@pytest.mark.parametrize("is_coloured", [True, False])
def test_no_line_is_wider_than_asked(report, width, is_coloured):
    table = arms_table(report, report.columns)
    text = rendered(table, width=width, is_coloured=is_coloured)
    rows = ANSI.sub("", text).split("\n")
    assert max(map(cell_len, rows)) <= width
    assert not [row for row in rows if row != row.rstrip()]


def test_the_rows_of_a_block_are_aligned_and_in_measured_order(report):
    rows = rendered(arms_table(report, report.columns)).split("\n")
    start = next(k for k, row in enumerate(rows) if "In-domain %" in row)
    block = rows[start + 2 : start + 9]
    assert [row[:13].strip() for row in block[:2]] == ["Boltzmann", "TABOM"]
    assert block[-1].startswith("SFT-GT")
    assert len({row.index(".") for row in block}) == 1


def test_every_number_is_there(report):
    text = shown(report)
    for row in report.comparison.rows:
        scale, digits = (100, 1) if row.is_share else (1, 3)
        assert f"{scale * row.value.value:.{digits}f}" in text
        if row.change is not None:
            ends = [fixed(scale * x, digits, sign=True) for x in (row.change.low, row.change.high)]
            assert f"[{', '.join(ends)}]".replace(MINUS, "-") in text
    assert "with 95% intervals of the changes against No-SFT" in text
    assert "lower is better: Premature commit" in text


def test_markdown_has_the_same_cells(report):
    table = arms_table(report, report.columns, title="Arms", has_seeds=True)
    lines = table.markdown().splitlines()
    assert lines[0] == "## Arms"
    body = [line for line in lines if line.startswith("|")]
    assert body[0].startswith("| arm | seeds | In-domain % | change |")
    assert body[1].startswith("| --- | ---: | ---: | ---: |")
    assert len(body) == 2 + 7
    assert len({line.count("|") for line in body}) == 1
    assert "\\|" in Table(["a"], [["x|y"]]).markdown()


def test_arm_against_arm_covers_every_two_arms(report):
    table = comparison_tables(report)[0]
    assert (table.title, len(table.rows)) == ("Arm against arm", 7 * 6 / 2)
    assert table.texts[0][0] == "Boltzmann – TABOM"
    assert {row[2] for row in table.texts} == {"higher", "open"}
    assert comparison_tables(Report(name="x")) == []


def test_colour_changes_no_text(report):
    table = arms_table(report, report.columns)
    coloured = rendered(table, is_coloured=True)
    assert ANSI.sub("", coloured) == rendered(table)
    assert "\x1b[32m" in coloured


def test_colour_only_on_a_terminal_and_without_no_color(report, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown(report)
    assert "\x1b[" in shown(report, stream=Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(report, stream=Terminal())


def test_numbers_can_be_copied(report):
    assert "\N{MINUS SIGN}" not in shown(report)
    assert "-33" in shown(report)


def test_a_narrow_encoding_does_not_end_the_run(report):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    shown(dataclasses.replace(report, name="名前"), stream=_Written(stream))
    assert raw.getvalue().startswith(b"??: 2026-11-24 09:30, 7 arms")


class _Written:
    """A stream whose text is flushed at once."""

    encoding = "ascii"

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)
        self.stream.flush()

    def isatty(self):
        return False

    def getvalue(self):
        return ""


@pytest.mark.parametrize(
    "name", ["\x1b[2J\x1b[31mred", "two\nlines", "名" * 40, "x" * 300, "", "[b]x"]
)
def test_names_can_neither_steer_the_terminal_nor_break_the_table(name):
    table = Table(["arm", "a", "b"], [[name, 1, Cell(name, "best")]], title=name, note=name)
    text = rendered(table, name)
    assert "\x1b" not in text
    assert max(map(cell_len, text.split("\n"))) <= 100
    if name == "[b]x":  # no markup either
        assert "[b]x" in text


def test_missing_parts():
    assert "This run has no evaluated arm." in shown(Report(name="x"))
    assert shown(Report(name="x")).startswith("x: 0 arms\n")
