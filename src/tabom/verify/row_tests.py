"""The tests of a prompt row, of whichever kind; a row that no program could fail has none."""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tabom.core.errors import DataError
from tabom.verify.asserts import (
    BAD_SOURCE,
    Check,
    VacuousError,
    take_apart,
    take_apart_check,
)
from tabom.verify.extract import called_function


@dataclass(frozen=True, kw_only=True)
class RowTests:
    """kind: asserts or programs. tests: a Check each, or an input and an output. setup: source that
    runs before each of them. number: of tests in the row; one may have several asserts.
    """

    kind: Literal["asserts", "programs"] = "asserts"
    tests: tuple[Any, ...]
    number: int
    entry_point: str | None = None
    setup: str = ""


def row_tests(row: Mapping[str, Any]) -> RowTests:
    """The tests of a row. Raises DataError where there are none that a program could fail."""
    if row.get("test_list"):
        return _asserts(row)
    if row.get("test") and row.get("entry_point"):
        name = str(row["entry_point"])
        try:
            checks = take_apart_check(str(row["test"]), name)
        except VacuousError as error:
            raise DataError(f"test {error}") from error
        except BAD_SOURCE as error:
            raise DataError(_uncompiled(error)) from error
        return RowTests(tests=tuple(checks), number=1, entry_point=name)
    if row.get("tests"):
        return _programs(row["tests"])
    raise DataError(
        "the row has no tests (test_list, test with entry_point, or tests with input and output)"
    )


def _asserts(row: Mapping[str, Any]) -> RowTests:
    listed = row["test_list"]
    if not isinstance(listed, list | tuple) or not all(isinstance(t, str) for t in listed):
        raise DataError("test_list must be a list of assert statements")
    imports = row.get("test_imports") or []
    imports = [imports] if isinstance(imports, str) else imports
    before = [*map(str, imports), str(row.get("test_setup_code") or "")]
    setup = "\n".join(part for part in before if part.strip()).replace("\r\n", "\n")
    filled = [test for test in listed if test.strip()]
    checks = [check for number, test in enumerate(filled) for check in _checks(test, number)]
    if not checks:
        raise DataError("the row has no tests: each entry of test_list is empty")
    name = row.get("entry_point") or called_function(filled)
    if name and not any(_mentions(test, str(name)) for test in filled):
        raise DataError(f"test_list never uses {name!r}, the row's entry_point")
    return RowTests(tests=tuple(checks), number=len(filled), entry_point=name, setup=setup)


def _checks(test: str, number: int) -> Iterator[Check]:
    try:
        yield from take_apart(test.strip())
    except VacuousError as error:
        raise DataError(f"test_list[{number}] {error}") from error
    except BAD_SOURCE as error:
        raise DataError(_uncompiled(error)) from error


def _mentions(test: str, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(ast.parse(test.strip())))


def _uncompiled(error: BaseException) -> str:
    return f"a test does not compile: {type(error).__name__}: {str(error)[:200]}"


def _programs(value: Any) -> RowTests:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError("tests is text that is no JSON") from error
    if isinstance(value, Mapping) and {"inputs", "outputs"} <= set(value):  # as TACO and APPS do
        pairs = zip(value["inputs"], value["outputs"], strict=False)
        value = [{"input": given, "output": wanted} for given, wanted in pairs]
    tests = []
    for number, test in enumerate(value if isinstance(value, list | tuple) else [None]):
        if not isinstance(test, Mapping) or not {"input", "output"} <= set(test):
            raise DataError(f"tests[{number}] has no input and output")
        tests.append({name: _text(test[name]) for name in ("input", "output")})
    if not any(test["output"].strip() for test in tests):
        raise DataError("the row has no tests: no output is expected in any of them")
    return RowTests(kind="programs", tests=tuple(tests), number=len(tests))


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
