"""Tests taken apart: what a program computes, and what that must be.

Of `assert f(1) == 2` only `f(1)` goes into the program's interpreter; the value comes back and is
compared here. A test that cannot be taken apart runs inside, and says which asserts it passed.
"""

import ast
import copy
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "set": set, "frozenset": frozenset, "tuple": tuple, "list": list, "dict": dict,
    "float": float, "int": int, "complex": complex, "sorted": sorted,
}  # fmt: skip
# No power and no shift: a row may not make us compute for ever.
_CONSTANT = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Load, ast.UnaryOp, ast.BinOp,
    ast.Call, ast.USub, ast.UAdd, ast.Not, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv,
    ast.Mod,
)  # fmt: skip
BAD_SOURCE = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Check:
    """One thing that is run inside, and what must come of it.

    text: the assert, for a person. source: what runs, as an expression (mode eval) or as
    statements (mode exec). holds: of an expression, whether its value is right.
    asserts: of statements, the numbers of those asserts that cannot be left out, and of them all
    how many there are.
    """

    text: str
    source: str
    mode: str = "exec"
    holds: Callable[[Any], bool] | None = None
    asserts: frozenset[int] = frozenset()
    num_asserts: int = 0


class VacuousError(ValueError):
    """A test that no program could fail."""


def take_apart(source: str) -> list[Check]:
    """The checks of a test's source. Raises SyntaxError, or VacuousError if it asserts nothing."""
    tree = ast.parse(source)
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    if not asserts:
        raise VacuousError("asserts nothing")
    for node in asserts:
        if _is_vacuous(node.test):
            raise VacuousError(f"asserts only {ast.unparse(node.test)[:60]!r}")
    checks = [_taken_apart(node) for node in tree.body]
    # One statement that cannot be taken apart may change what the others see, so all run inside.
    if all(check is not None for check in checks):
        return [check for check in checks if check is not None]
    return [_whole(tree, source)]


def take_apart_check(source: str, entry_point: str) -> list[Check]:
    """The checks of a `check(candidate)` function: its asserts one by one where it has no more."""
    tree = ast.parse(source)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    check = functions.get("check")
    if check is None or not check.args.args:
        raise VacuousError("defines no check(candidate)")
    asserts = [n for n in ast.walk(tree) if isinstance(n, ast.Assert) and not _is_vacuous(n.test)]
    if not asserts:
        raise VacuousError("asserts nothing")
    # An assert that runs alone has no `candidate` any more; it calls the function by its name.
    named = _Renamed(check.args.args[0].arg, entry_point)
    rest = [n for n in tree.body if n is not check and not _is_text(n) and not _is_assignment(n)]
    rest += [n for n in check.body if n not in asserts and not _is_empty(n)]
    if not rest:
        checks = [_taken_apart(named.visit(copy.deepcopy(n))) for n in check.body if n in asserts]
        if all(part is not None for part in checks):
            return [part for part in checks if part is not None]
    return [_whole(ast.parse(f"{source}\n\ncheck({entry_point})\n"), source)]


class _Renamed(ast.NodeTransformer):
    """`candidate` under the name of the function that it is."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._new, node.ctx) if node.id == self._old else node


class _Counted(ast.NodeTransformer):
    """Each assert followed by a call that says it was passed."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        said = ast.parse(f"__passed__({self.count})").body[0]
        self.count += 1
        return [node, said]


def _whole(tree: ast.Module, source: str) -> Check:
    """A test that runs inside. Its asserts that no branch and no loop holds must be passed."""
    functions = {n.name: n.body for n in tree.body if isinstance(n, ast.FunctionDef)}
    # Asserts in a branch or a loop may be left out by right programs, so none of them is asked
    # for by its number.
    certain = [n for n in tree.body if isinstance(n, ast.Assert)]
    certain += [n for n in functions.get("check", []) if isinstance(n, ast.Assert)]
    order = [n for n in _in_order(tree) if isinstance(n, ast.Assert)]
    numbers = frozenset(i for i, node in enumerate(order) if node in certain)
    counted = ast.fix_missing_locations(_Counted().visit(tree))
    return Check(
        source.strip()[-300:], ast.unparse(counted), asserts=numbers, num_asserts=len(order)
    )


def _in_order(node: ast.AST) -> list[ast.AST]:
    """Every node, in the order in which a transformer visits them."""
    return [node, *(n for child in ast.iter_child_nodes(node) for n in _in_order(child))]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_empty(node: ast.stmt) -> bool:
    """A remark, pass, or an assert that nothing could fail."""
    return isinstance(node, ast.Pass | ast.Assert) or _is_text(node)


def _is_assignment(node: ast.stmt) -> bool:
    """METADATA = {...}, as HumanEval's tests begin."""
    return isinstance(node, ast.Assign) and _constant(node.value) is not None


def _is_vacuous(test: ast.expr) -> bool:
    """Whether every program passes: a constant, a tuple by mistake, "or True"."""
    # `assert (a == b, text)` is true whatever a and b are.
    if isinstance(test, ast.Tuple):
        return True
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(isinstance(v, ast.Constant) and v.value for v in test.values)
    return not any(isinstance(n, ast.Name | ast.Call | ast.Attribute) for n in ast.walk(test))


def _taken_apart(node: ast.stmt) -> Check | None:
    """One assert as an expression and what its value must be; None if that cannot be said."""
    if not isinstance(node, ast.Assert):
        return None
    test, text = node.test, ast.unparse(node)
    is_wanted = True
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, is_wanted = test.operand, not is_wanted
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        compare, sides = _OPERATORS[type(test.ops[0])], (test.left, test.comparators[0])
        constants = [_constant(side) for side in sides]
        if constants[0] is None and constants[1] is not None:
            wanted = constants[1][0]
            return _check(text, sides[0], lambda value: compare(value, wanted) is is_wanted)
        # What `in` looks into may be of any type, which would not come back as it is.
        is_container = isinstance(test.ops[0], ast.In | ast.NotIn)
        if constants[0] is not None and constants[1] is None and not is_container:
            wanted = constants[0][0]
            return _check(text, sides[1], lambda value: compare(wanted, value) is is_wanted)
        return None
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose"):
        return _close(test, text, is_wanted)
    if isinstance(test, ast.Call | ast.Name | ast.Attribute | ast.Subscript):
        # The truth of a value is asked for inside, since the value may be of any type.
        truth = ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), test))
        return _check(text, truth, lambda value: value is is_wanted)
    return None


def _close(test: ast.Call, text: str, is_wanted: bool) -> Check | None:
    """`math.isclose(f(1), 0.5, rel_tol=...)`."""
    constants = [_constant(argument) for argument in test.args]
    options = {k.arg: _constant(k.value) for k in test.keywords if k.arg is not None}
    if len(constants) != 2 or (constants[0] is None) is (constants[1] is None):
        return None
    if None in options.values() or len(options) != len(test.keywords):
        return None
    place = 0 if constants[0] is None else 1
    wanted = next(c for c in constants if c is not None)[0]
    tolerances = {name: c[0] for name, c in options.items() if c is not None}

    def holds(value: Any) -> bool:
        return math.isclose(value, wanted, **tolerances) is is_wanted

    return _check(text, test.args[place], holds)


def _check(text: str, expression: ast.expr, holds: Callable[[Any], bool]) -> Check:
    def is_right(value: Any) -> bool:
        # Values come from programs, so comparing them may fail in many ways; none of them is right.
        try:
            return holds(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return False

    return Check(text, ast.unparse(expression), mode="eval", holds=is_right)


def _constant(node: ast.expr) -> tuple[Any] | None:
    """(value,) of an expression that is the same in every program; None of any other."""
    for part in ast.walk(node):
        is_built = isinstance(part, ast.Name) and part.id in _BUILDERS
        if not is_built and not isinstance(part, _CONSTANT):
            return None
    try:
        return (eval(ast.unparse(node), {"__builtins__": {}}, dict(_BUILDERS)),)
    except (*BAD_SOURCE, TypeError, ArithmeticError):
        return None


_OTHER = object()  # of a type that is not plain: equal to nothing


def decoded(value: Any) -> Any:
    """The plain value that a program sent; what is no such message is equal to nothing."""
    try:
        kind, content = value
        if kind == "=" and (content is None or isinstance(content, bool)):
            return content
        if kind == "int":
            return int(content, 16)
        if kind == "float":
            return float.fromhex(content)
        if kind == "complex":
            return complex(*map(float.fromhex, content))
        if kind == "str" and isinstance(content, str):
            return content
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind == "number":
            return Fraction(content)
        if kind in ("list", "tuple", "set", "frozenset"):
            return _BUILDERS[kind](map(decoded, content))
        if kind == "dict":
            return {decoded(k): decoded(v) for k, v in content}
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        pass
    return _OTHER
