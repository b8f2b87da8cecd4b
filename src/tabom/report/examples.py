"""What the trajectory viewer shows: responses to one prompt side by side, and their mistakes.

Legend: N response slots.
"""

import re
from typing import Any

from tabom.report.data import Example, Report, number
from tabom.report.figures import arm_styles

# <eos>, <|endoftext|>, [MASK]: a token that is no text of the answer.
SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")


def is_special(token: str) -> bool:
    """Whether a token's text is a special token's name, such as <eos>."""
    return SPECIAL.fullmatch(token) is not None


def expected_texts(example: Example) -> list[str | None]:
    """Per slot the reference's text where it differs from the response's, else None.

    Only for a wrong response whose text, up to the first special token, is as long as the
    reference: elsewhere a slot has no counterpart, and a guess would mark right tokens wrong.
    """
    tokens = list(example.tokens)
    expected: list[str | None] = [None] * len(tokens)
    end = next((n for n, token in enumerate(tokens) if is_special(token)), len(tokens))
    text, reference = "".join(tokens[:end]), example.reference
    if example.is_correct or not reference or len(text) != len(reference):
        return expected
    # The reference is walked along with the response's tokens, whose lengths may differ from slot
    # to slot.
    at = 0
    for n, token in enumerate(tokens[:end]):
        wanted = reference[at : at + len(token)]
        at += len(token)
        if wanted != token:
            expected[n] = wanted
    return expected


def viewer(report: Report) -> dict[str, Any]:
    """The viewer's data: prompts, each with its runs (an index into the report's examples).

    `top`: nats at the dark end of the colour scale, the greatest entropy that occurs.
    """
    styles = arm_styles(report)
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    top = 0.0
    for index, example in enumerate(report.examples):
        key = (example.set, example.prompt)
        group = groups.setdefault(key, {"set": key[0], "prompt": key[1], "runs": []})
        group["runs"].append(
            {
                "example": index,
                "colour": styles.get(example.arm, ("ink-soft", ""))[0],
                "special": [is_special(token) for token in example.tokens],
                "expected": expected_texts(example),
            }
        )
        rows = [example.entropy, *(example.field or ())]
        top = max([top, *(value for row in rows for v in row if (value := number(v)) is not None)])
    return {"groups": list(groups.values()), "top": top or 1.0, "base": report.comparison.base}
