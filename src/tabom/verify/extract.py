"""The program in a response: which part of the text is code, and what of it is kept.

Blocks are found by a Markdown parser, statements on the syntax tree. Lines end at a line feed and
nowhere else, as for Python itself.
"""

import ast
import builtins
import re
import textwrap
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt

_PYTHON = ("", "python", "python3", "py", "python2", "pycon", "ipython")
_MAX_LENGTH = 200_000  # characters; a longer response is a decoder that repeats itself
_BUDGET_S = 3.0  # for all attempts at one response
_START = re.compile(
    r"(?:from|import|def|class|async|if|for|while|try|with)\b|@"
    r"|[A-Za-z_][\w.\[\], ]{0,80}(?:[-+*/|]?=|\()"
)
_TOKENS = re.compile(r"(?:<\|[\w .-]{1,40}\|>|</?s>|<eos>|<pad>|\[EOS\])+[ \t]*$", re.MULTILINE)
_THOUGHT = re.compile(r"<think(?:ing)?>(?:(?!<think).)*?</think(?:ing)?>", re.S)
_FENCE = re.compile(r"[ \t]*```")
_GLUED = re.compile(r"^(.*?[^\s`].*?)[ \t]*(```[\w+-]*)[ \t]*$")
# Calls that say something and build nothing.
_TALK = (
    "print", "input", "exit", "quit", "sys.exit", "unittest.main", "doctest.testmod", "pprint",
    "display",
)  # fmt: skip
_DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BAD_SOURCE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_markdown = MarkdownIt("commonmark")
_no_warnings = threading.Lock()  # the filters are the process's, and checkers run in threads


@dataclass(frozen=True)
class Extracted:
    """code: "" if there is none. is_open: it goes on to the end of the text, so it may be cut."""

    code: str
    is_open: bool
    language: str = ""


def extract_program(response: str) -> Extracted:
    """A whole program, for tests that run it: the last block of Python, or all of the text."""
    text = _visible(response)
    blocks = [block for block in _blocks(text) if block.language in _PYTHON]
    for wanted in (lambda b: b.language, lambda b: does_something(b.code), lambda b: True):
        chosen = [block for block in blocks if wanted(block)]
        if chosen:
            return chosen[-1]
    return Extracted(text if parses(text) and text.strip() else "", True)


def extract_function(response: str, *, entry_point: str | None, prompt: str = "") -> Extracted:
    """The definitions of a response, as tests that call them need.

    entry_point: the function that the tests call; of the blocks that define it the last is taken,
    with what the blocks before it define.
    prompt: where it is code that ends in the start of that function (as in HumanEval), the
    response may be its completion, and what the prompt defines before is kept.
    """
    text = _visible(response)
    head = prompt if entry_point and _starts(prompt, entry_point) else ""
    reader = _Reader(entry_point, head.replace("\r\n", "\n"))
    fences = [line for line in text.split("\n") if _FENCE.match(line)]
    if len(fences) % 2 and fences[0].strip() == "```":  # it goes on in a block of the prompt's
        code = reader.assembled(re.split(r"^[ \t]*```", text, maxsplit=1, flags=re.M)[0])
        if code:
            return Extracted(code, False)
    blocks = [block for block in _blocks(text) if block.language in _PYTHON]
    if not blocks:
        return Extracted(reader.assembled(text) or reader.unfenced(text), True)
    found = [Extracted(reader.assembled(b.code), b.is_open) for b in blocks]
    usable = [f for f in found if f.code]
    if not usable:  # does not compile: run it all the same, so that the verdict says why
        return blocks[0]
    defining = [i for i, b in enumerate(blocks) if found[i].code and reader.is_defined(b.code)]
    if not defining:
        return usable[0]
    last = defining[-1]
    before = [_kept(block.code, None, kinds=_DEFINES) for block in blocks[:last]]
    return Extracted("".join([*before, found[last].code]), found[last].is_open)


def python_texts(response: str) -> list[str]:
    """Every text of a response that is meant to be Python.

    The fenced blocks that say so, all of them; else, of the blocks that name no language and of
    the text outside any, what parses and does something. Blocks of other languages are left out.
    """
    text = _visible(response)
    blocks = _blocks(text)
    named = [b.code for b in blocks if b.language and b.language in _PYTHON and b.code.strip()]
    if named:
        return named
    if blocks:
        return [b.code for b in blocks if not b.language and does_something(b.code)]
    found = text if does_something(text) else _Reader(None, "").unfenced(text)
    return [found] if does_something(found) else []


def does_something(code: str) -> bool:
    """Whether a text is a program that defines or calls anything; the word "Yes" parses too."""
    tree = _parse(textwrap.dedent(code))
    return tree is not None and any(
        not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call | ast.Await)
        for node in tree.body
    )


def called_function(tests: list[str]) -> str | None:
    """The function that asserts call, where they all call one that is no builtin."""
    names: list[set[str]] = []
    for test in tests:
        try:
            tree = ast.parse(test.strip())
        except _BAD_SOURCE:
            return None
        calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
        called = {f.id for f in calls if isinstance(f, ast.Name)}
        names.append({name for name in called if not hasattr(builtins, name)})
    shared = set.intersection(*names) if names else set()
    return shared.pop() if len(shared) == 1 else None


def parses(code: str) -> bool:
    """Whether a text is a program."""
    return _parse(code) is not None


def _parse(code: str) -> ast.Module | None:
    return None if len(code) > _MAX_LENGTH else _parsed(code)[0]


def _parsed(code: str) -> tuple[ast.Module | None, int]:
    """The tree of a text, or None with the line at fault (0: not told).

    Compiled too: a `return` outside a function parses. Odd escapes in it are no news of ours.
    """
    with _no_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "<response>", "exec", dont_inherit=True)
            return ast.parse(code), 0
        except SyntaxError as error:
            return None, error.lineno or 0
        except _BAD_SOURCE:
            return None, 0


def _visible(response: str) -> str:
    """The response without thoughts and end tokens, and each fence on a line of its own."""
    text = response[:_MAX_LENGTH].replace("\r\n", "\n").replace("\r", "\n")
    text = _TOKENS.sub("", _THOUGHT.sub("\n", text))
    lines, is_inside = [], False
    for line in text.split("\n"):
        if _FENCE.match(line):
            is_inside = not is_inside
        elif (
            len(line) < 500
            and (glued := _GLUED.match(line))
            and not (is_inside and glued[2] != "```")
        ):
            lines.append(glued[1])
            line, is_inside = glued[2], not is_inside
        lines.append(line)
    return "\n".join(lines)


def _blocks(text: str) -> list[Extracted]:
    """The fenced blocks of a text, those in lists too, in their order."""
    if "```" not in text and "~~~" not in text:
        return []
    lines, blocks, end = text.split("\n"), [], 0
    for token in _markdown.parse(text):
        if token.map is None or token.map[0] < end:
            continue
        if token.type == "code_block" and "```" in token.content:  # indented, and in no list
            blocks += _blocks(textwrap.dedent(token.content))
        if token.type != "fence":
            continue
        start, end = token.map
        is_open = lines[end - 1].strip() != token.markup or end - start < 2
        code = token.content
        if (
            not is_open
            and not parses(textwrap.dedent(code))
            and len(re.findall(r'"""|\'\'\'', code)) % 2
        ):
            code, end = _past_docstring(lines, start, end, code)
        language = re.split(r"[\s{:,]", token.info.strip().lower() + " ")[0]
        if code.strip():
            blocks.append(Extracted(code, is_open, language))
    return blocks


def _past_docstring(lines: list[str], start: int, end: int, code: str) -> tuple[str, int]:
    """A block whose docstring holds a fence: up to the first later fence that makes it parse."""
    closing = [i for i in range(end, len(lines)) if lines[i].strip() == "```"]
    for i in closing[:20]:
        longer = textwrap.dedent("\n".join(lines[start + 1 : i])) + "\n"
        if parses(longer):
            return longer, i + 1
    return code, end


def _starts(prompt: str, name: str) -> bool:
    """Whether a prompt begins the definition of a function; it need not be a whole program."""
    return re.search(rf"^(?:async +)?def +{re.escape(name)}\b", prompt, re.M) is not None


class _Reader:
    """Reads one response's texts as code, for one function, within one budget of time."""

    def __init__(self, entry_point: str | None, head: str) -> None:
        self._entry, self._head = entry_point, head
        self._deadline = time.monotonic() + _BUDGET_S

    def is_defined(self, code: str) -> bool:
        """Whether a text defines the function at its top level."""
        return self._entry is not None and _defines(code, self._entry)

    def assembled(self, text: str) -> str:
        """A program made of a whole definition or a completion of the head; "" if neither."""
        if not text.strip():
            return ""
        dedented = textwrap.dedent(text)
        if self._entry is None or self.is_defined(dedented):
            # The head first: its imports and helpers; the response's definition replaces its own.
            whole = f"{self._head}\n\n{dedented}" if parses(self._head) else dedented
            return _kept(whole, self._entry)
        if not self._head:
            return _kept(dedented, self._entry)
        start = self._head + ("" if self._head.endswith("\n") else "\n")
        for body in _bodies(text):
            longest = self._longest(body, start)
            if longest:
                return _kept(start + longest, self._entry)
        return ""

    def unfenced(self, text: str) -> str:
        """The longest run of lines that is a program, with the function if one is asked for."""
        lines = text.split("\n")
        starts = [i for i, line in enumerate(lines) if _START.match(line)]
        for start in starts[:100]:
            code = self._longest("\n".join(lines[start:]))
            # "from what is said" is a line of prose; "Sure" alone parses.
            if does_something(code) and (self._entry is None or self.is_defined(code)):
                return self.assembled(code)
            if time.monotonic() > self._deadline:
                break
        return ""

    def _longest(self, text: str, before: str = "") -> str:
        """As many of the first lines as parse: cut where the parser stops, until it does not."""
        lines = text.split("\n")
        num_before = before.count("\n")
        while lines and time.monotonic() < self._deadline:
            part = "\n".join(lines) + "\n"
            tree, line = _parsed(before + part) if len(part) <= _MAX_LENGTH else (None, 0)
            if tree is not None:
                return part if part.strip() else ""
            lines = lines[: min(max(line - num_before, 1), len(lines)) - 1] if line else lines[:-1]
        return ""


def _bodies(text: str) -> Iterator[str]:
    """Ways to read a completion: as it is, without its first line's indent, without any."""
    text = text.lstrip("\n")
    indented = textwrap.indent(textwrap.dedent(text), "    ")
    lines = [line for line in text.split("\n") if line.strip()]
    if lines[0][0].isspace():
        yield text
    else:
        opens_block = lines[0].rstrip().endswith(":")
        indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 else 0
        # Only the first line lost its indent if the next is deeper than it can be below it.
        if indent > (4 if opens_block else 0):
            yield "    " + text
    yield indented


def _defines(code: str, name: str) -> bool:
    tree = _parse(code)
    return tree is not None and any(name in _bound(node) for node in tree.body)


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement of the top level binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    inner = (n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef))
    return own | {n.name for n in inner}


def _kept(code: str, entry: str | None, *, kinds: tuple[type[ast.stmt], ...] = ()) -> str:
    """What of a program is needed: no prints, no main, no calls of `entry`; "" if it is none.

    kinds: only statements of these kinds. Other examples are held when they run.
    """
    tree = _parse(code)
    if tree is None:
        return ""
    nodes = [n for n in tree.body if (isinstance(n, kinds) if kinds else not _is_talk(n, entry))]
    lines, parts = code.split("\n"), []
    # Statements with a ";" between them share a line.
    shared = Counter(line for n in tree.body for line in {n.lineno, n.end_lineno})
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        try:
            own = "\n".join(lines[first - 1 : node.end_lineno])
            is_alone = shared[node.lineno] == 1 and shared[node.end_lineno] == 1
            parts.append(own if is_alone else ast.unparse(node))
        except RecursionError:  # deeper than can be written again: as it stands
            return code
    return "\n".join(parts) + "\n" if parts else ""


def _is_talk(node: ast.stmt, entry: str | None) -> bool:
    """Whether a statement says something and builds nothing, or runs only as a main program."""
    if isinstance(node, ast.If):
        return any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
    if isinstance(node, ast.Expr):
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Call):
            return _name_of(value.func) in (*_TALK, entry)
        return not isinstance(value, ast.NamedExpr | ast.Subscript | ast.BinOp | ast.ListComp)
    return isinstance(node, ast.Assert | ast.Raise)


def _name_of(node: ast.expr) -> str:
    """`a.b.c` as text; "" for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
