r"""The checker for mathematics: symbolic equality by math-verify, in worker processes.

The answer is looked for in this order: the last `\boxed{...}`, the last `####`, the last "the
answer is"; a response that is one formula and nothing else is its answer. What is in none of
these is no answer: a number found somewhere in a text is not taken for one.
"""

import re

from tabom.trajectory.verdicts import Verdict
from tabom.verify.answer import Answer, find_answer
from tabom.verify.checker import Response
from tabom.verify.math_pool import MathPool
from tabom.verify.quantity import read_quantity
from tabom.verify.words import words_of

_FORMULA = re.compile(r"\$[^$]+\$\.?|\\\(.+\\\)\.?|\\\[.+\\\]|[^A-Za-z\n]*\d[^A-Za-z\n]*", re.S)
_LONGEST_FORMULA = 1000  # characters; a longer one is no answer, and the search is quadratic


def judge_math(given: Response, *, pool: MathPool) -> Verdict:
    """The verdict on a response against the reference's answer.

    Without an end token, an answer that reaches the end of the text may have lost a part: it is
    truncated.
    """
    gold = find_answer(given.reference)
    if gold is not None and not gold.is_closed and gold.form == "boxed":
        return Verdict("unverifiable", "the reference has a box that is not closed")
    wanted = (given.reference if gold is None else gold.text).strip()
    if not wanted.strip(" .:$"):
        return Verdict("unverifiable", "the prompt has no reference")
    if not given.text.strip():
        return Verdict("no_answer", "the response is empty")
    found = _answer(given)
    if isinstance(found, Verdict):
        return found
    known = words_of(str(given.row.get("prompt") or given.row.get("problem") or ""))
    reason, detail = _compare(wanted, found.text, known, pool)
    hedges = set(found.hedges) - set(re.findall(r"[a-z]+", wanted.lower()))
    if hedges and reason == "accepted":
        reason, detail = "wrong", f"{min(hedges)!r} takes it back"
    return Verdict(reason, found.form if reason == "accepted" else f"{found.form}: {detail}")


def _answer(given: Response) -> Answer | Verdict:
    """The answer that a response states, or the verdict where it states none."""
    found = find_answer(given.text)
    if found is None:
        if not given.ended:
            return Verdict("truncated", "no end token before an answer was given")
        if len(given.text) > _LONGEST_FORMULA or not _FORMULA.fullmatch(given.text.strip()):
            return Verdict("no_answer", "nothing boxed, no ####, no 'the answer is'")
        return Answer("formula", given.text, True)
    if not given.ended and not found.is_closed:
        return Verdict("truncated", "no end token before an answer was given in full")
    if not found.is_closed and found.form == "boxed":
        return Verdict("no_answer", "the box is not closed")
    if not found.text.strip(" .:*$"):
        return Verdict("no_answer", f"nothing follows ({found.form})")
    return found


def _compare(wanted: str, answer: str, known: frozenset[str], pool: MathPool) -> tuple[str, str]:
    """Plain numbers at once, the rest in the pool."""
    if len(wanted) < 40 and len(answer) < 40:
        gold, given = read_quantity(wanted), read_quantity(answer, known)
        is_same = gold is not None and given is not None and gold.value == given.value
        if gold and given and is_same and gold.unit.agrees(given.unit):
            return "accepted", ""
    return pool.compare(wanted, answer, known=known)
