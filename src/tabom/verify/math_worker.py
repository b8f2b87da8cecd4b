"""One worker of the pool: compares answers with math-verify, in the main thread of its process.

math-verify stops an endless simplification with SIGALRM, which only a main thread may use.
Reads one JSON [reference, answer, whether it is a whole response] a line; writes "gold", then one
JSON [reason, detail] a line. A parent that has seen "gold" knows that it is the answer which takes
too long.
"""

import contextlib
import json
import logging
import os
import re
import resource
import sys
from typing import Any

from tabom.verify.latex import readable, same_digits, same_text, same_time

_MEMORY = 4 * 2**30  # 9^9^9 written out would take the machine's
_MAX_LENGTH = 1000  # a longer answer is a decoder that repeats itself


def compare(reference: str, answer: str, *, tell_gold: Any = None) -> tuple[str, str]:
    """(reason, detail) of an answer against a reference, both without the form around them."""
    from math_verify import verify

    gold = _parse(reference)
    if tell_gold is not None:
        tell_gold()
    if not gold:
        return "unverifiable", f"the reference {reference[:60]!r} cannot be read as mathematics"
    if len(answer) > _MAX_LENGTH:
        return "wrong", f"the answer has {len(answer)} characters"
    if same_text(reference, answer):
        return "accepted", ""
    for same in (same_digits, same_time):
        if (alike := same(reference, answer)) is not None:
            return (
                ("accepted", "") if alike else ("wrong", f"{answer[:60]}, wanted {reference[:60]}")
            )
    given = _parse(answer)
    if not given:
        return "wrong", f"the answer {answer[:60]!r} cannot be read as mathematics"
    # Also an inequality for a wanted interval.
    if verify(gold, given, allow_set_relation_comp=True):
        return "accepted", ""
    if all(isinstance(g, str) for g in gold):
        return "unverifiable", f"the reference {reference[:60]!r} is text, and not the answer's"
    return "wrong", f"{answer[:60]}, wanted {reference[:60]}"


def compare_whole(reference: str, response: str, *, tell_gold: Any = None) -> tuple[str, str]:
    """(reason, answer) of a whole response: anything in it that math-verify takes for an answer."""
    from math_verify import parse, verify

    gold = parse(f"${reference}$")
    if tell_gold is not None:
        tell_gold()
    if not gold:
        return "unverifiable", ""
    found = parse(response)
    if not found:
        return "no_answer", ""
    return "accepted" if verify(gold, found) else "wrong", str(found[-1])


def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    text = re.sub(r"(?<!\\)%", r"\\%", text.replace(r"\$", "").strip().rstrip(".").strip())
    if not (text := readable(text) or ""):
        return []
    # Without dollars LaTeX is not found; a sentence keeps those that it has. Only LaTeX, since
    # the search for a plain number would take the 3 of "3 sqrt(2)", which is no LaTeX, for it.
    has_math = any(mark in text for mark in ("$", r"\(", r"\["))
    found = parse(
        text if has_math else f"${text}$",
        extraction_config=[LatexExtractionConfig()],
        parsing_timeout=4,
    )
    return list(found)


def main() -> None:
    """Answer until standard input ends."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    # What libraries print must not get between the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)

    def write(line: str) -> None:
        channel.write(line + "\n")
        channel.flush()

    for line in sys.stdin:
        reference, answer, is_whole = json.loads(line)
        judge = compare_whole if is_whole else compare
        try:
            verdict = judge(reference, answer, tell_gold=lambda: write("gold"))
        except (Exception, RecursionError, MemoryError) as error:
            verdict = "wrong", f"could not be compared: {type(error).__name__}"
        write(json.dumps(verdict))


if __name__ == "__main__":
    main()
