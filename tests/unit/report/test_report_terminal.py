import io
import re

import pytest

from tabom.core.errors import DataError
from tabom.report.terminal import _columns, format_table, print_table

ANSI = re.compile(r"\x1b\[\d+m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [60, 72, 100, 250])
@pytest.mark.parametrize("is_coloured", [True, False])
def test_no_line_is_wider_than_asked_or_than_100(summary, width, is_coloured):
    text = format_table(summary, width=width, is_coloured=is_coloured)
    assert max(_columns(ANSI.sub("", row)) for row in text.split("\n")) <= min(width, 100)
    assert not [row for row in text.split("\n") if row != row.rstrip()]


def test_the_rows_of_a_block_are_aligned_and_in_measured_order(summary):
    rows = format_table(summary).split("\n")
    first = [row for row in rows if "[" in row and not row.startswith(("toy", "Boltzmann leads"))]
    start = next(k for k, row in enumerate(rows) if "In-domain (%)" in row)
    block = rows[start + 1 : start + 8]
    assert [row[:13].strip() for row in block[:2]] == ["Boltzmann", "TABOM"]
    assert block[-1].startswith("SFT-GT")
    at = rows[start].index("In-domain")
    assert {row.index(".") for row in block} == {at + 2}
    assert first


def test_every_number_of_the_page_is_there(summary):
    text = format_table(summary)
    for arm in summary["arms"]:
        for key, cell in arm["means"].items():
            digits = 3 if key in ("tds", "order_agreement") else 1
            assert f"{cell['mean']:.{digits}f}" in text
            if cell["delta"] is not None:
                low, high = cell["delta_low"], cell["delta_high"]
                assert f"[{low:+.{digits}f}, {high:+.{digits}f}]" in text
    assert "mean, change against No-SFT, [95% interval of the change]" in text
    assert "lower is better: Premature commits" in text


def test_colour_changes_no_text(summary):
    plain, coloured = format_table(summary), format_table(summary, is_coloured=True)
    assert ANSI.sub("", coloured) == plain
    assert "\x1b[32m" in coloured
    assert "\x1b[" not in plain


def test_colour_only_on_a_terminal_and_without_no_color(summary, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe, terminal = io.StringIO(), Terminal()
    print_table(summary, stream=pipe)
    print_table(summary, stream=terminal)
    assert "\x1b[" not in pipe.getvalue()
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    quiet = Terminal()
    print_table(summary, stream=quiet)
    assert "\x1b[" not in quiet.getvalue()


def test_plain_ascii_for_plain_names(summary):
    for metric in summary["metrics"]:
        metric["unit"] = metric["unit"].replace("²", "2")
    assert format_table(summary).isascii()


def test_a_narrow_encoding_does_not_end_the_run(summary):
    summary["name"] = "名前"
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_table(summary, stream=stream)
    stream.flush()
    assert raw.getvalue().startswith(b"??  |  7 arms")


def test_names_can_neither_steer_the_terminal_nor_break_the_table(summary):
    names = ["\x1b[2J\x1b[31mred", "two\nlines", "名" * 40, "x" * 300, "", "a", "b"]
    summary["base_arm"] = names[0]
    for arm, name in zip(summary["arms"], names, strict=True):
        arm["name"] = name
    text = format_table(summary)
    assert "\x1b" not in text
    assert max(map(_columns, text.split("\n"))) <= 100
    start = next(k for k, row in enumerate(text.split("\n")) if "In-domain (%)" in row)
    assert len(text.split("\n")[start:]) > 8


def test_missing_parts(summary):
    assert "This run has no evaluated arm." in format_table({"schema": 1, "name": "x"})
    del summary["base_arm"]
    summary["arms"] = summary["arms"][:1]
    summary["arms"][0]["means"] = {}
    assert "No-SFT" in format_table(summary)
    with pytest.raises(DataError, match="schema is None"):
        format_table({})
