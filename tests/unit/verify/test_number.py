r"""The light number checker: what it reads, and what it must not be fooled by."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Response
from tabom.verify.number import judge_number, reference_quantity


def reason(response: str, reference: str, *, has_end: bool = True) -> str:
    return judge_number(Response(text=response, reference=reference, ended=has_end)).reason


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        (r"so \boxed{18}", "18"),
        (r"\boxed{\$18}", "work\n#### 18"),
        (r"\boxed{18\text{ dollars}}", "18"),
        (r"\boxed{18 eggs}", "18"),
        (r"\boxed{x = 18}", "18"),
        (r"\boxed{10\%}", "10"),
        (r"\boxed{70{,}000}", "70000"),
        (r"\boxed{70\,000}", "70000"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{7} is wrong, so \boxed{8}", "8"),
        ("12 3 4\n#### 1,800", "1800"),
        ("#### -3 apples", "-3"),
        ("The answer is $1,234.50.", "1234.5"),
        ("The answer is: **18**. Check: 9 + 9.", "18"),
        ("the Answer is 5 + 7 = 12", "12"),
        ("She has 3 and 4, that is 7 eggs", "7"),
        ("18.00", "18"),
        (".5", "0.50"),
        ("10 - 5", "5"),
        ("10-5", "5"),
        ("it fell to −5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
    ],
)
def test_accepted(response, reference):
    assert reason(response, reference) == "accepted"


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        (r"\boxed{3, 4}", "4"),  # two numbers are no number
        (r"\boxed{2x}", "2"),
        (r"\boxed{2\pi}", "2"),
        (r"\boxed{2^{10}}", "10"),
        (r"\boxed{5:30}", "30"),
        (r"\boxed{x} = 5", "5"),  # the box is the answer, whatever follows
        (r"\boxed{5", "5"),  # an open box is not an answer
        ("1/2", "2"),
        ("It is -18", "18"),
        ("1,00", "100"),
        ("180", "18"),
        ("18.5", "18"),
        ("The answer is 12. Then 18", "18"),
    ],
)
def test_near_misses_are_wrong(response, reference):
    assert reason(response, reference) == "wrong"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"so \boxed{18}", "accepted"),  # closed: nothing can be missing
        (r"so \boxed{18", "truncated"),
        ("The answer is 18 eggs. And", "accepted"),
        ("#### 18\nAnd then", "accepted"),
        ("The answer is 18", "truncated"),  # of 180?
        ("#### 18", "truncated"),
        ("3 + 15 = 18", "truncated"),
        ("I think", "truncated"),
        ("", "no_answer"),
    ],
)
def test_without_an_end_token(response, expected):
    assert reason(response, "18", has_end=False) == expected


def test_no_number_and_no_reference():
    assert reason("I do not know", "18") == "no_answer"
    assert reason(" ", "18") == "no_answer"
    assert reason("18", "") == "unverifiable"
    assert reason("18", "eighteen") == "unverifiable"
    assert reason("4", "3 or 4") == "unverifiable"


def test_details_say_what_was_found():
    verdict = judge_number(Response(text="It is 19", reference="18"))
    assert verdict == Verdict("wrong", "last number 19, wanted 18")
    assert judge_number(Response(text="#### 18", reference="18")) == Verdict("accepted", "####")


def test_a_repeating_decoder_and_a_zero_divisor_do_no_harm():
    assert reason("9" * 100_000, "9") == "no_answer"
    assert reason("5/0", "5") == "wrong"
    assert reason(r"\boxed{" * 2000, "5") == "wrong"


def test_reference_number():
    for reference, value in (("12 x 3\n#### 5,600", 5600), (r"thus \boxed{1/4}", Fraction(1, 4))):
        quantity = reference_quantity(reference)
        assert quantity is not None
        assert quantity.value == value
    assert reference_quantity("12 x 3") is None


@given(st.integers(-(10**9), 10**9), st.sampled_from([0, 1, 2]))
def test_a_number_agrees_with_itself_and_not_with_its_neighbour(number, decimals):
    text = f"{number:,}" + ("." + "0" * decimals if decimals else "")
    for form in (r"\boxed{%s}", "#### %s", "The answer is %s.", "So it is %s", r"\boxed{$%s$}"):
        assert reason(form % text, str(number)) == "accepted"
        assert reason(form % text, str(number + 1)) == "wrong"
