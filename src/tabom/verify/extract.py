"""The program in a response: which part of the text is code, and what of it is kept."""

import ast
import builtins
import re
import textwrap
import threading
import warnings
from dataclasses import dataclass

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_PYTHON = ("", "python", "python3", "py")
_START = re.compile(r"^(?:from|import|def|class|async|@)\b|^@", re.M)
_no_warnings = threading.Lock()  # the filters are the process's, and checkers run in threads
_MAX_LINES = 200  # of text outside a fence that is searched for its longest program
_DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_KEPT = (
    *_DEFINES,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Try,
    ast.With,
    ast.If,
    ast.For,
    ast.While,
)


@dataclass(frozen=True)
class Extracted:
    """code: "" if there is none. is_open: it goes on to the end of the text, so it may be cut."""

    code: str
    is_open: bool


def extract_program(response: str) -> Extracted:
    """A whole program, for tests that run it: the last fenced block, or all of the text."""
    blocks = _blocks(response)
    if blocks:
        return blocks[-1]
    return Extracted(response if parses(response) and response.strip() else "", True)


def extract_function(response: str, *, entry_point: str | None, prompt: str = "") -> Extracted:
    """The definitions of a response, as tests that call them need.

    entry_point: the function that the tests call; a block or text that defines it is preferred,
    with what the blocks before it define.
    prompt: where it is code that ends in the start of that function (as in HumanEval), the
    response may be its completion, and what the prompt defines before is kept.
    """
    head = prompt if entry_point and _defines(prompt, entry_point, is_start=True) else ""
    blocks = _blocks(response)
    if not blocks:
        code = _assemble(response, entry_point, head) or _assemble(
            _longest_program(response), entry_point, head
        )
        return Extracted(code, True)
    found = [Extracted(_assemble(b.code, entry_point, head), b.is_open) for b in blocks]
    usable = [f for f in found if f.code]
    if not usable:  # does not compile: run it all the same, so that the verdict says why
        return Extracted(blocks[0].code, blocks[0].is_open)
    if entry_point is None:
        return usable[0]
    for i, (f, b) in enumerate(zip(found, blocks, strict=True)):
        if f.code and _defines(b.code, entry_point):
            before = [_sanitise(block.code, kept=_DEFINES) for block in blocks[:i]]
            return Extracted("".join([*before, f.code]), f.is_open)
    return usable[0]


def python_texts(response: str) -> list[str]:
    """Every text of a response that is meant to be Python.

    The fenced blocks that say so, all of them; else, of the blocks that name no language and of
    the text outside any, what parses and does something. Blocks of other languages are left out.
    """
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(response)]
    named = [code for name, code in blocks if name in _PYTHON and name and code.strip()]
    if named:
        return named
    if blocks:
        return [code for name, code in blocks if not name and does_something(code)]
    found = response if does_something(response) else _longest_program(response)
    return [found] if does_something(found) else []


def does_something(code: str) -> bool:
    """Whether a text is a program that defines or calls anything; the word "Yes" parses too."""
    tree = _parse(textwrap.dedent(code))
    return tree is not None and any(
        isinstance(node, _KEPT)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await))
        for node in tree.body
    )


def called_function(tests: list[str]) -> str | None:
    """The function that asserts call, where they all call one that is no builtin."""
    names: list[set[str]] = []
    for test in tests:
        try:
            tree = ast.parse(test)
        except (SyntaxError, ValueError):
            return None
        names.append(
            {
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and not hasattr(builtins, node.func.id)
            }
        )
    shared = set.intersection(*names) if names else set()
    return shared.pop() if len(shared) == 1 else None


def parses(code: str) -> bool:
    """Whether a text is a program."""
    return _parse(code) is not None


def _parse(code: str) -> ast.Module | None:
    # Compiled too: a `return` outside a function parses. Odd escapes in it are no news of ours.
    with _no_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "<response>", "exec", dont_inherit=True)
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _blocks(response: str) -> list[Extracted]:
    fences = re.findall(r"^[ \t]*```[ \t]*(\S*)", response, re.M)
    if len(fences) % 2 and not fences[0]:  # it goes on in a block that the prompt has opened
        return [Extracted(re.split(r"^[ \t]*```", response, maxsplit=1, flags=re.M)[0], False)]
    blocks = []
    for match in _FENCE.finditer(response):
        if match[1].lower() in _PYTHON and match[2].strip():
            blocks.append(Extracted(match[2], not match[0].rstrip().endswith("```")))
    return blocks


def _assemble(text: str, entry_point: str | None, head: str) -> str:
    """A program made of a whole definition or of a completion of `head`; "" if neither parses."""
    if not text.strip():
        return ""
    dedented = textwrap.dedent(text)
    if entry_point is None or _defines(dedented, entry_point):
        # The head first: it holds imports and helpers; the response's definition replaces its own.
        return _sanitise(f"{head}\n\n{dedented}" if parses(head) else dedented)
    if head:
        for body in _bodies(text):
            code = _sanitise(head + ("" if head.endswith("\n") else "\n") + _prefix(head, body))
            if code:
                return code
        return ""
    return _sanitise(dedented)


def _bodies(text: str) -> list[str]:
    """Ways to read a completion: as it is, without its first line's indent, without any."""
    text = text.lstrip("\n")
    indented = textwrap.indent(textwrap.dedent(text), "    ")
    lines = [line for line in text.splitlines() if line.strip()]
    if lines[0][0].isspace():
        return [text, indented]
    opens_block = lines[0].rstrip().endswith(":")
    indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 else 0
    # Only the first line lost its indent if the next is deeper than it can be below such a line.
    return ["    " + text, indented] if indent > (4 if opens_block else 0) else [indented]


def _prefix(head: str, body: str) -> str:
    """The completion up to the first line that makes it no program any more (text, a new fence)."""
    lines = body.splitlines()[:_MAX_LINES]
    if parses(head + "\n" + body):
        return body
    for end in range(len(lines), 0, -1):
        part = "\n".join(lines[:end]) + "\n"
        if lines[end - 1].strip() and parses(head + "\n" + part):
            return part
    return body


def _longest_program(text: str) -> str:
    """From the first line that looks like a program, as many lines as parse."""
    start = _START.search(text)
    if start is None:
        return ""
    lines = text[start.start() :].splitlines()[:_MAX_LINES]
    for end in range(len(lines), 0, -1):
        part = "\n".join(lines[:end]) + "\n"
        if lines[end - 1].strip() and parses(part):
            return part
    return ""


def _defines(code: str, name: str, *, is_start: bool = False) -> bool:
    """Whether a text defines a function at its top level; a start need not be a whole program."""
    if is_start:
        return re.search(rf"^(?:async +)?def +{re.escape(name)}\b", code, re.M) is not None
    tree = _parse(code)
    if tree is None:
        return False
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == name:
                return True
        elif isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            return True
    return False


def _sanitise(code: str, *, kept: tuple[type[ast.stmt], ...] = _KEPT) -> str:
    """Only what defines: no prints, no examples, no asserts, no main. "" if it does not parse."""
    tree = _parse(code)
    if tree is None:
        return ""
    nodes = [n for n in tree.body if (isinstance(n, kept) and not _is_main(n)) or _sets_limit(n)]
    lines = code.splitlines()
    parts = []
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(parts) + "\n" if parts else ""


def _sets_limit(node: ast.stmt) -> bool:
    """`sys.setrecursionlimit(...)`: a call, and not an example."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).endswith("setrecursionlimit")
    )


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test)
    )
