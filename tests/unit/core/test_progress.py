"""Progress rows: names as they are, time that goes on, nothing left behind, nothing when piped."""

import io
import re
import sys
import time

import pytest

from tabom.core.progress import Bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest puts its own stderr back after the fixtures."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return found


def test_each_stage_has_a_row_and_time_goes_on_while_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = terminal_of(monkeypatch)
    bars = Bars()
    bars("seed 0 train [bold]x[/bold]", 0, None)
    bars("seed 1 collect", 3, 12, "120 [red]/h")
    time.sleep(1.7)
    bars.close()
    text = terminal.plain()
    assert "seed 0 train [bold]x[/bold]" in text
    assert "seed 1 collect" in text
    assert "25%" in text
    assert "120 [red]/h" in text
    assert {"0:00:00", "0:00:01"} <= set(re.findall(r"\d:\d\d:\d\d", text))
    assert terminal.getvalue().endswith("\x1b[2K")  # the rows are wiped


def test_a_row_that_ended_is_gone_and_may_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    bars = Bars()
    bars("first", 1, 2)
    bars.end("first")
    bars.end("never there")
    terminal.truncate(0)
    bars("second", 1, 2)
    time.sleep(0.7)
    bars.close()
    assert "second" in terminal.plain()
    assert "first" not in terminal.plain()


def test_nothing_is_drawn_when_quiet_or_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    Bars(is_quiet=True)("x", 1, 2)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bars = Bars()
    bars("x", 1, 2)
    bars.close()
    assert terminal.getvalue() == ""
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
