"""One worker of the pool: compares answers in the main thread of a process of its own.

math-verify stops an endless simplification with SIGALRM, which only a main thread may use; and
what cannot be stopped so is ended with the process. Reads one JSON list [what, ...] a line; writes
"gold" once the reference is read, then one JSON [reason, detail] a line. A parent that has seen
"gold" knows that it is the answer which takes too long.
"""

import contextlib
import json
import logging
import os
import resource
import sys
from collections.abc import Callable

_MEMORY = 4 * 2**30  # 9^9^9 written out would take the machine's

Judgement = tuple[str, str]


def compare(
    reference: str, answer: str, known: list[str], tell_gold: Callable[[], None]
) -> Judgement:
    """(reason, detail) of an answer against a reference, both without the form around them."""
    from tabom.verify.compare import compare as compare_answer

    return compare_answer(reference, answer, frozenset(known), tell_gold)


def compare_whole(
    reference: str, response: str, known: list[str], tell_gold: Callable[[], None]
) -> Judgement:
    """(reason, answer) of a whole response: anything in it that math-verify takes for an answer."""
    from math_verify import parse, verify

    gold = parse(f"${reference}$")
    tell_gold()
    if not gold:
        return "unverifiable", ""
    found = parse(response)
    if not found:
        return "no_answer", ""
    return "accepted" if verify(gold, found) else "wrong", str(found[-1])


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
        is_whole, *arguments = json.loads(line)
        judge: Callable[..., Judgement] = compare_whole if is_whole else compare
        try:
            verdict = judge(*arguments, lambda: write("gold"))
        except (Exception, RecursionError, MemoryError) as error:
            verdict = "wrong", f"could not be compared: {type(error).__name__}"
        write(json.dumps(verdict))


if __name__ == "__main__":
    main()
