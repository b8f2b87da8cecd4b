"""Checkers: reasons, holes, functions of the user's."""

import re
import sys
import types
from typing import get_args

import pytest

import tabom
from tabom.core.errors import ConfigError, DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import Verdict
from tabom.verify import checker
from tabom.verify.checker import Checker, Response, row_of
from tabom.verify.checkers import CHECKERS, build_checker
from tabom.verify.config import CheckerType, VerifierConfig

MASK, END = 1, 2


def make(
    response: str, *, reference: str = "", ids: list[int] | None = None, **fields
) -> Trajectory:
    ids = [5, 6, END, END] if ids is None else ids
    n = len(ids)
    step = [-1 if i == MASK else s for s, i in enumerate(ids)]
    return Trajectory(
        id="t",
        prompt="p",
        prompt_ids=[3],
        response=response,
        response_ids_N=ids,
        step_N=step,
        entropy_N=[0.1] * n,
        confidence_N=[0.9] * n,
        num_forwards=n,
        reference=reference,
        **fields,
    )


def judge(config: VerifierConfig, trajectory: Trajectory) -> Verdict:
    response = Response.of(trajectory, mask_id=MASK, end_ids=(END,))
    return build_checker(config).judge_one(response)


@pytest.fixture
def module(monkeypatch):
    """A module of the user's, importable as `user_checks`."""
    fake = types.ModuleType("user_checks")
    monkeypatch.setitem(sys.modules, "user_checks", fake)
    return fake


def function_config(**args) -> VerifierConfig:
    return VerifierConfig(type="function", function="user_checks:check", args=args)


def test_every_type_of_the_config_has_a_checker():
    assert set(CHECKERS) == set(get_args(CheckerType))


@pytest.mark.parametrize(
    ("response", "reference", "ids", "reason"),
    [
        ("a  b\n", " a b", [5, 6, END], "accepted"),
        ("a b", "a c", [5, 6, END], "wrong"),
        ("A b", "a b", [5, 6, END], "wrong"),
        ("a b", "a c", [5, 6, 7], "truncated"),
        ("a b", "a b", [5, 6, 7], "accepted"),  # it fills the canvas exactly
        ("  ", "a b", [END, END], "no_answer"),
        ("a b", "  ", [5, 6, END], "unverifiable"),
        ("a b", "a b", [5, MASK, 6, END], "truncated"),  # the text leaves the hole out
        ("a b", "a b", [5, 6, END, MASK], "accepted"),  # never revealed after the end: no matter
    ],
)
def test_exact(response, reference, ids, reason):
    verdict = judge(VerifierConfig(), make(response, reference=reference, ids=ids))
    assert (verdict.reason, verdict.verifier) == (reason, "exact")


def test_a_hole_is_counted_in_the_detail():
    verdict = judge(VerifierConfig(), make("ab", reference="ab", ids=[5, MASK, MASK, 6, END]))
    assert verdict.detail == "2 slots before the end were never revealed"


def test_accept_all_accepts_even_a_response_with_holes():
    verdict = judge(VerifierConfig(type="accept_all"), make("", ids=[MASK, MASK]))
    assert verdict.is_accepted
    assert verdict.verifier == "accept_all"


def test_python_is_wired():
    config = VerifierConfig(type="python")
    verdict = judge(config, make("def f():\n    return 1\n"))
    assert (verdict.reason, verdict.detail, verdict.verifier) == (
        "accepted",
        "1 Python block",
        "python",
    )
    assert judge(config, make("def f(): pass", ids=[5, 6, 7])).reason == "truncated"
    assert judge(config, make("def f(): pass", ids=[5, MASK, END])).reason == "truncated"


def test_function_gets_response_row_and_args(module):
    seen = {}

    def check(*, response, row, strict):
        seen.update(response=response, row=row, strict=strict)
        return "accepted", "fine"

    module.check = check
    trajectory = make("ab", reference="r", task="t1", row={"ground_truth": "g", "reference": "own"})
    verdict = judge(function_config(strict=True), trajectory)
    assert verdict == Verdict("accepted", "fine", "function:user_checks:check")
    assert seen == {
        "response": "ab",
        "strict": True,
        "row": {"prompt": "p", "reference": "own", "task": "t1", "ground_truth": "g"},
    }


def test_row_has_the_trajectorys_own_columns():
    assert row_of(make("x", reference="r")) == {"prompt": "p", "reference": "r", "task": ""}


def test_an_exception_in_the_function_is_unverifiable(module):
    def check(*, response, row):
        raise KeyError("tests")

    module.check = check
    verdict = judge(function_config(), make("ab"))
    assert verdict.reason == "unverifiable"
    assert verdict.detail == "user_checks:check raised KeyError: 'tests'"


@pytest.mark.parametrize(("answer", "reason"), [(True, "accepted"), (False, "wrong")])
def test_a_function_may_say_yes_or_no(module, answer, reason):
    module.check = lambda *, response, row: answer
    assert judge(function_config(), make("ab")).reason == reason


@pytest.mark.parametrize(
    "check",
    [
        lambda response: True,
        lambda response, row: True,
        lambda response, row, strict, more: True,
        lambda x, row, strict: True,
    ],
)
def test_a_wrong_signature_is_shown_before_anything_is_judged(module, check):
    module.check = check
    with pytest.raises(
        ConfigError, match=r"user_checks:check is \(.*called as .*response, row, stri"
    ):
        build_checker(function_config(strict=True))


def test_a_function_that_never_works_ends_the_run_early_with_its_error(module):
    calls = []

    def check(*, response, row):
        calls.append(response)
        raise KeyError("no_such_column")

    module.check = check
    checker = build_checker(function_config())
    with pytest.raises(ConfigError, match="no_such_column") as error:
        list(checker.judge_many(Response(text=str(i)) for i in range(1000)))
    assert len(calls) == 5
    assert "each of its first 5 calls" in str(error.value)
    assert "test_checkers.py" in str(error.value)  # where it was raised


def test_one_odd_row_ends_no_run(module):
    def check(*, response, row):
        if int(response) > 0:
            raise ValueError(response)
        return True

    module.check = check
    found = list(
        build_checker(function_config()).judge_many(Response(text=str(i)) for i in range(9))
    )
    assert [v.reason for v in found] == ["accepted"] + ["unverifiable"] * 8


def test_an_error_in_a_checker_is_a_verdict_and_half_a_character_does_no_harm():
    def broken(response):
        raise RecursionError("\ud83d")

    verdict = Checker(name="c", judge=broken).judge_one(Response(text="x"))
    assert verdict == Verdict("unverifiable", "it could not be judged: RecursionError: ?", "c")


def test_a_judgement_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(checker, "_CLOCK_S", 0.2)
    slow = Checker(name="c", judge=lambda response: re.match("(a+)+b", "a" * 60))
    verdict = slow.judge_one(Response(text="x"))
    assert verdict.reason == "unverifiable"
    assert "no verdict within 0.2 s" in verdict.detail


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"response": "a b", "reference": "a  b", "kind": "exact"}, "accepted"),
        ({"response": "so 5", "reference": "5", "kind": "number"}, "accepted"),
        ({"response": "so 5", "reference": "5", "kind": "number", "ended": False}, "truncated"),
        ({"response": "5"}, "unverifiable"),
    ],
)
def test_the_one_door(arguments, reason):
    assert tabom.judge(**arguments).reason == reason


def test_the_door_to_a_function(module):
    module.check = lambda *, response, row: row["wanted"] == response
    found = tabom.judge("a", kind="function", function="user_checks:check", row={"wanted": "a"})
    assert found == Verdict("accepted", "", "function:user_checks:check")


@pytest.mark.parametrize("answer", [None, "accepted", ("right", ""), ("wrong", None), ("wrong",)])
def test_an_invalid_return_is_an_error_naming_the_function(module, answer):
    module.check = lambda *, response, row: answer
    with pytest.raises(DataError, match=r"user_checks:check returned .*; expected true, false or"):
        judge(function_config(), make("ab"))


@pytest.mark.parametrize(
    ("answer", "ids", "reason"),
    [
        ("no_answer", [5, 6], "truncated"),
        ("no_answer", [5, END], "no_answer"),
        ("wrong", [5, 6], "wrong"),  # the function has looked: 16 slots may be a full answer
        ("accepted", [5, MASK, END], "truncated"),
    ],
)
def test_function_and_the_end_of_the_canvas(module, answer, ids, reason):
    module.check = lambda *, response, row: (answer, "")
    assert judge(function_config(), make("ab", ids=ids)).reason == reason


def test_number_type_is_wired():
    verdict = judge(VerifierConfig(type="number"), make("It is 1,234.", reference="x #### 1234"))
    assert (verdict.reason, verdict.verifier) == ("accepted", "number")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"type": "exakt"}, "type: .*'exakt'.*did you mean 'exact'"),
        ({"type": "function"}, "needs verifier.function"),
        ({"type": "exact", "function": "a:b"}, "takes no function"),
        ({"type": "number", "args": {"a": 1}}, "takes no function and no args"),
    ],
)
def test_config_errors(fields, text):
    with pytest.raises(ConfigError, match=text):
        VerifierConfig(**fields)


def test_a_missing_function_is_a_config_error():
    with pytest.raises(ConfigError, match="no_such_module"):
        build_checker(VerifierConfig(type="function", function="no_such_module:check"))


def test_the_toy_worlds_own_checker():
    config = VerifierConfig(type="function", function="tabom.toyworld.tasks:check")
    row = {"ground_truth": "ABBDEG"}
    assert judge(config, make("abbdeg", reference="abbdeg", row=row)).is_accepted
    assert judge(config, make("abbdge", reference="abbdeg", row=row)).reason == "wrong"
    assert judge(config, make("", reference="abbdeg", row=row)).reason == "no_answer"
