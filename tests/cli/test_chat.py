"""`tabom generate`, `tabom chat`, and the canvas on a terminal."""

import io
import json
import re
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.style import Style
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.cli import live
from tabom.cli.layout import records
from tabom.cli.live import FAINT, PLAIN, Screen, canvas_slots, certainty_style, token_texts
from tabom.cli.main import main
from tabom.decoding.requests import StepView

Capture = pytest.CaptureFixture[str]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal(io.StringIO):
    """A terminal: it says so, and keeps the screen as a reader sees it.

    While the cursor is hidden, that is while a canvas is drawn, no line may be wider than the
    screen: a real one would wrap it and spoil the count of lines to go back.
    """

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, width: int = 60) -> None:
        super().__init__()
        self.width = width
        self.lines: list[str] = [""]
        self.row = 0
        self.codes: list[str] = []
        self.is_cursor_hidden = False
        self.num_up = self.tallest_move = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\n|\r|[^\x1b\n\r]+", text):
            self._take(part)
        return super().write(text)

    def _take(self, part: str) -> None:
        if part == "\n":
            self.num_up = 0
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            self.row -= int(part[2:-1])
            self.num_up += int(part[2:-1])
            self.tallest_move = max(self.tallest_move, self.num_up)
            assert self.row >= 0
        elif part == "\x1b[2K":
            self.lines[self.row] = ""
        elif part == "\x1b[J":
            self.lines = [*self.lines[: self.row], ""]
        elif part in ("\x1b[?25l", "\x1b[?25h"):
            self.is_cursor_hidden = part.endswith("l")
        elif part.startswith("\x1b"):
            self.codes.append(part)
        elif part != "\r":
            self.lines[self.row] += part
            assert not self.is_cursor_hidden or cell_len(self.lines[self.row]) <= self.width

    @property
    def shown(self) -> str:
        return "\n".join(self.lines).rstrip("\n")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 60 columns and 12 lines."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")
    return Terminal()


def on(terminal: Terminal, *arguments: Any) -> None:
    """Run a verb whose stdout is this terminal."""
    with redirect_stdout(terminal):
        assert main([str(a) for a in arguments]) == 0


def talk(
    monkeypatch: pytest.MonkeyPatch,
    *arguments: Any,
    lines: str,
    to: Terminal | None = None,
    status: int = 0,
) -> None:
    """`tabom chat` with these lines on stdin."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    if to is None:
        assert main(["chat", *map(str, arguments)]) == status
    else:
        on(to, "chat", *arguments)


# ---- generate ----


def generate(capsys: Capture, *arguments: Any) -> str:
    assert main(["generate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_generate_prints_the_response(random_toy: Path, capsys: Capture) -> None:
    common = [random_toy, "--prompt", "abc", "--max_new_tokens", 12, "--tokens_per_step", 3]
    text = generate(capsys, *common)
    assert "\x1b" not in text
    found = json.loads(generate(capsys, *common, "--json"))
    assert text == found["response"] + "\n"
    assert found["num_forwards"] == 4
    assert sorted(found["step"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for name in ("token_ids", "entropy", "confidence"):
        assert len(found[name]) == 12
    assert all(0 <= c <= 1 for c in found["confidence"])
    # --max-new-tokens is the same flag, and a seed without temperature changes nothing.
    common[3:5] = ["--max-new-tokens", 12]
    assert json.loads(generate(capsys, *common, "--json", "--seed", 9)) == found


def test_generate_reads_files_in_order_whatever_the_batch(
    random_toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = tmp_path / "p.jsonl"
    rows.write_text("".join(json.dumps({"id": f"q{i}", "prompt": "abcdefg"[:i]}) + "\n"
                            for i in (5, 1, 3)))  # fmt: skip
    options = ["--prompts", rows, "--max_new_tokens", 6, "--json", "--temperature", 0.8]
    text = generate(capsys, random_toy, *options, "--batch_size", 1)
    assert [json.loads(line)["id"] for line in text.splitlines()] == ["q5", "q1", "q3"]
    assert generate(capsys, random_toy, *options, "--batch_size", 3).count("\n") == 3
    plain = tmp_path / "p.txt"
    plain.write_text("abc\n\nabcd\n")
    text = generate(capsys, random_toy, "--prompts", plain, "--max_new_tokens", 6)
    assert re.findall(r"^\[(\S+)\] (\S+)$", text, re.M) == [("line-1", "abc"), ("line-3", "abcd")]


def test_generate_with_an_adapter(random_toy: Path, tmp_path: Path, capsys: Capture) -> None:
    import torch

    from tabom.models.adapters import attach_lora, save_adapter
    from tabom.models.loading import load_model

    model = load_model(random_toy, device="cpu")
    attach_lora(model, r=2)
    for name, parameter in model.lm.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.constant_(parameter, 0.5)
    save_adapter(model, tmp_path / "adapter")
    common = [random_toy, "--prompt", "abc", "--max_new_tokens", 12]
    base = generate(capsys, *common)
    assert generate(capsys, *common, "--adapter", tmp_path / "adapter") != base


def test_generate_reads_a_prompt_from_stdin(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [random_toy, "--max_new_tokens", 8, "--prompt"]
    expected = generate(capsys, *common, "abc")
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n"))
    assert generate(capsys, *common, "-") == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["generate", *map(str, common), "-"]) == 2
    assert "--prompt is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "\u4e2d"], "does not take this prompt"),
        (["--prompts", "no.txt"], "no.txt"),
        (["--prompts", "no.jsonl"], "no.jsonl"),
        (["--prompt", "a", "--adapter", "nowhere"], "nowhere"),
    ],
)
def test_generate_refuses(
    arguments: list[str], words: str, random_toy: Path, capsys: Capture
) -> None:
    assert main(["generate", str(random_toy), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


# ---- chat through a pipe ----


def test_chat_through_a_pipe_is_plain(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = generate(capsys, random_toy, "--prompt", "abc", "--max_new_tokens", 8)
    talk(monkeypatch, random_toy, "--max_new_tokens", 8, lines="abc\n\n/quit\nabc\n")
    out, err = capsys.readouterr()
    assert (out, err) == (one, "")


def test_chat_remembers_until_reset(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "abc\nabc\n/reset\nabc\n"  # without /quit: the end of the input ends it
    talk(monkeypatch, random_toy, "--max_new_tokens", 8, lines=lines)
    first, second, note, third = capsys.readouterr().out.splitlines()
    assert first == third
    assert first != second
    assert note == "what was said is forgotten"


def test_chat_settings_and_mistakes_do_not_end_it(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "/settings tokens_per_step=4 max_new_tokens=8\n/settings policy=best\n/settings x=1\n"
        '/settings "\n/nonsense\n\u4e2d\n/help\nabc\n'
    )
    talk(monkeypatch, random_toy, lines=lines, status=2)  # a script is told that something failed
    out, err = capsys.readouterr()
    assert "tokens_per_step=4\n" in out
    assert "temperature=0.0\n" in out
    assert "/reset forgets" in out
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 5
    for line, words in zip(errors, ("found 'best'", "x", "quotation", "/nonsense is no command",
                                    "does not take"), strict=True):  # fmt: skip
        assert words in line
    # The settings of before the mistakes are in force: the last line is a response.
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    expected = generate(capsys, random_toy, "--prompt", "abc", "--max_new_tokens", 8,
                        "--tokens_per_step", 4)  # fmt: skip
    assert out.endswith(expected)


def test_a_system_message_comes_first(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(monkeypatch, random_toy, "--system", "be kind", "--max_new_tokens", 4, lines="abc\n",
         status=2)  # fmt: skip
    assert "got role system" in capsys.readouterr().err  # the toy's template has none


# ---- on a terminal ----


def test_chat_on_a_terminal_shows_the_decoding_and_leaves_the_text(
    random_toy: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--max_new_tokens", 100, "--tokens_per_step", 10]
    talk(monkeypatch, random_toy, *options, lines="abc\n", to=terminal)
    raw = ESCAPE.sub("", terminal.getvalue())
    assert "\u2591" * 30 in raw  # masked slots as blocks, once
    assert "step 1: 10 of 100 slots" in raw
    assert "step 10: 100 of 100 slots" in raw
    assert any(code.startswith("\x1b[38;5;") for code in terminal.codes)
    assert any(code.startswith("\x1b[4;38;5;") for code in terminal.codes)
    assert not terminal.is_cursor_hidden
    assert "step 1:" not in terminal.shown  # the drawing is gone, the response stays
    assert "\u2591" not in terminal.shown
    assert "slots before the end, 10 forwards" in terminal.shown


def test_what_is_left_is_the_response(
    random_toy: Path, terminal: Terminal, capsys: Capture
) -> None:
    common = [random_toy, "--prompt", "abc", "--max_new_tokens", 60]
    on(terminal, "generate", *common)
    left = terminal.shown
    response = json.loads(generate(capsys, *common, "--json"))["response"]
    *text, _note = left.splitlines()
    assert "".join(text) == response


def test_no_color_keeps_the_drawing_without_colours(
    random_toy: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    on(terminal, "generate", random_toy, "--prompt", "abc", "--max_new_tokens", 12)
    assert not any("38;5" in code for code in terminal.codes)
    assert "step 12" in terminal.getvalue()


def test_a_dumb_terminal_gets_plain_text(
    random_toy: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    on(terminal, "generate", random_toy, "--prompt", "abc", "--max_new_tokens", 12)
    assert "\x1b" not in terminal.getvalue()


def test_stopping_a_response_keeps_the_talk(
    random_toy: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = Screen.draw, [0]

    def interrupted(self: Screen, *args: Any) -> None:
        draw(self, *args)
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "draw", interrupted)
    talk(monkeypatch, random_toy, "--max_new_tokens", 6, lines="abc\nabc\n", to=terminal)
    assert "(stopped; this turn is forgotten)" in terminal.shown
    assert terminal.shown.count("slots before the end") == 1
    assert not terminal.is_cursor_hidden


def test_a_canvas_taller_than_the_screen_shows_where_it_is_revealed(terminal: Terminal) -> None:
    screen = Screen(terminal)  # type: ignore[arg-type]
    slots = [("a" * 60, FAINT)] * 50
    slots[30] = ("b" * 60, Style(underline=True))
    screen.draw(slots, "one")
    screen.draw(slots, "two")
    assert terminal.tallest_move <= 11  # what has scrolled away is never reached for
    assert "b" * 60 in terminal.shown
    assert terminal.lines[terminal.row] == "two"
    screen.clear()
    assert terminal.shown == ""


class AsciiTerminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_an_encoding_without_blocks_gets_other_signs(terminal: Terminal) -> None:
    written = io.BytesIO()
    screen = Screen(AsciiTerminal(written, encoding="ascii"))
    assert screen.glyphs == live.ASCII
    screen.draw([("\u4e2d", PLAIN)], "status")
    screen.write("\u4e2d\n")
    assert written.getvalue().count(b"?\n") == 2


def test_text_of_a_model_is_no_markup(terminal: Terminal) -> None:
    screen = Screen(terminal)  # type: ignore[arg-type]
    text = "[red]x[/red] :smile: [link=http://a]b[/link]"
    screen.draw([(text, PLAIN)], "[bold]status")
    assert text in terminal.shown
    assert "[bold]status" in terminal.shown
    screen.clear()
    screen.say("[red]said[/red]")
    assert terminal.shown == "[red]said[/red]"


# ---- characters ----


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as the rare characters of Dream's and LLaDA's tokenizers are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)


TEXT = "a\u00e9 \u4e2d\U0001f600z"  # characters of 1, 2, 3 and 4 bytes


def test_bytes_are_joined_to_characters(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    texts = token_texts(byte_tokenizer, ids, [False] * len(ids))
    assert texts == ["a", "\u00e9", "", " ", "\u4e2d", "", "", "\U0001f600", "", "", "", "z"]


def test_a_character_that_is_half_masked_or_broken(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer.encode(TEXT)
    texts = partial(token_texts, byte_tokenizer)
    is_open = [False] * len(ids)
    is_open[5] = True  # the middle of the three bytes of U+4E2D
    shown = texts(ids, is_open)
    assert shown[4:7] == ["\ufffd", "", "\ufffd"]
    assert "".join(shown).endswith("\U0001f600z")
    del ids[5]  # never to become whole
    assert "".join(texts(ids, [False] * len(ids))) == "a\u00e9 \ufffd\ufffd\U0001f600z"


def test_every_cut_of_a_response_can_be_shown(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer.encode(TEXT * 3)
    rng, texts = np.random.default_rng(0), partial(token_texts, byte_tokenizer)
    for _ in range(50):
        is_open = rng.random(len(ids)) < rng.random()
        shown = texts(ids, is_open.tolist())
        assert len(shown) == len(ids)
        assert all(text == "" for text, o in zip(shown, is_open, strict=True) if o)
    assert "".join(texts(ids, [False] * len(ids))) == TEXT * 3


def test_wide_characters_never_leave_the_screen(terminal: Terminal) -> None:
    screen = Screen(terminal)  # type: ignore[arg-type]
    words = ["\u4e2d\u6587", "abc", "e\u0301x", "\U0001f600", "\n"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        slots = [(words[i], PLAIN) for i in rng.integers(0, len(words), 60)]
        screen.draw(slots, "status")  # the terminal of these tests measures each line
    screen.clear()


def test_colours_tell_certainty() -> None:
    styles = [certainty_style(p) for p in (0.0, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0)]
    assert len(set(map(str, styles))) == 7
    assert certainty_style(float("nan")) == PLAIN


def test_slots_of_a_canvas(random_toy: Path) -> None:
    from tabom.models.loading import load_model

    model = load_model(random_toy, device="cpu")
    ids = model.tokenizer.encode("ab", add_special_tokens=False)
    view = StepView(
        step=3,
        ids=("x",),
        response_ids_BN=np.array([[ids[0], model.ids.mask, ids[1], model.ids.eos[0]]]),
        open_BN=np.array([[False, True, False, False]]),
        step_BN=np.array([[1, -1, 3, 2]]),
        entropy_BN=np.zeros((1, 4), dtype=np.float32),
        confidence_BN=np.array([[1.0, np.nan, 0.1, 1.0]], dtype=np.float32),
    )
    slots = canvas_slots(view, model=model)
    assert [text for text, _ in slots] == ["a", "\u2591", "b", "\u00b7"]
    colours = [Style(color="color(38)"), FAINT, Style(color="color(203)", underline=True), FAINT]
    assert [style for _, style in slots] == colours


def test_records_line_up_with_wide_names_and_say_units() -> None:
    rows = [
        {"name": "\u4e2d\u6587", "num_slots": 12, "total_bytes": 2**30, "fits": True},
        {"name": "abc", "num_slots": 0, "total_bytes": 2**34, "fits": False},
    ]
    lines = [line.split() for line in records(rows).splitlines()]
    assert lines[0] == ["name", "slots", "total", "GiB", "fits"]
    assert lines[-2:] == [["\u4e2d\u6587", "12", "1", "yes"], ["abc", "-", "16.0", "NO"]]
