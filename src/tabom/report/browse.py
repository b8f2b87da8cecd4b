"""Collections and runs to look through: what is there, what a filter leaves, and its pages.

A library holds a line for each answer and reads a trajectory when it is asked for.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from tabom.report.build import asset, filled
from tabom.trajectory.record import Trajectory

PAGE = 50  # lines of a list
_SIGNS = {10: "↵", 9: "⇥"}  # a token that ends a line would stretch its box


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response as a list shows it. load: reads its trajectory."""

    arm: str
    response: str
    reason: str
    is_right: bool
    length: int
    num_forwards: int
    load: Callable[[], Trajectory]


@dataclass(kw_only=True)
class Item:
    """One prompt with the answers of the arms. difficulty: where the data know one."""

    id: str
    set: str
    prompt: str
    reference: str
    difficulty: float | None = None
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a reader asked for; every field may be empty.

    text: in prompt, reference or response. reason: of `arm`, or of any. flip: "A>B": wrong by A and
    right by B. low, high: length of the response. sort: a field of `SORTS`.
    """

    text: str = ""
    set: str = ""
    arm: str = ""
    reason: str = ""
    flip: str = ""
    low: int = 0
    high: int = 0
    difficulty: str = ""
    sort: str = ""
    page: int = 0

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Query":
        """From the parameters of a URL; what is no number counts as absent."""
        found: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            value = values.get(name, "")
            if kind is int:
                found[name] = int(value) if value.isdecimal() and len(value) < 10 else 0
            else:
                found[name] = value
        return cls(**found)

    def url(self, **changes: Any) -> str:
        """The list with some parameters changed."""
        given = {**vars(self), **changes}
        return "/?" + urlencode({k: v for k, v in given.items() if v not in ("", 0)})


SORTS: dict[str, Callable[[Item], float]] = {
    "difficulty": lambda item: -1.0 if item.difficulty is None else item.difficulty,
    "length": lambda item: max(a.length for a in item.answers.values()),
    "calls": lambda item: max(a.num_forwards for a in item.answers.values()),
}


class Library:
    """The prompts of a folder and their answers.

    tokens: ids -> a text for each, or None where no tokenizer is at hand.
    """

    def __init__(
        self,
        name: str,
        items: Iterable[Item],
        *,
        tokens: Callable[[Sequence[int]], list[str]] | None = None,
    ) -> None:
        self.name, self.tokens = name, tokens
        self.items = list(items)
        answers = [a for item in self.items for a in item.answers.values()]
        self.arms = list(dict.fromkeys(a.arm for a in answers))
        self.reasons = sorted({a.reason for a in answers})
        self.sets = list(dict.fromkeys(item.set for item in self.items if item.set))
        known = {item.difficulty for item in self.items} - {None}
        self.difficulties = [f"{d:g}" for d in sorted(known)]  # type: ignore[type-var]

    def found(self, query: Query) -> list[int]:
        """The places of the items that a query leaves, in its order."""
        places = [i for i, item in enumerate(self.items) if self._fits(item, query)]
        if query.sort in SORTS:
            places.sort(key=lambda i: -SORTS[query.sort](self.items[i]))
        return places

    def _fits(self, item: Item, query: Query) -> bool:
        answers = [a for a in item.answers.values() if query.arm in ("", a.arm)]
        if query.flip:
            first, _, second = query.flip.partition(">")
            both = item.answers.get(first), item.answers.get(second)
            if both[0] is None or both[1] is None or both[0].is_right or not both[1].is_right:
                return False
        texts = [item.prompt, item.reference, *(a.response for a in answers)]
        needle = query.text.casefold()
        return (
            query.set in ("", item.set)
            and (not query.difficulty or f"{item.difficulty or 0:g}" == query.difficulty)
            and (not needle or any(needle in text.casefold() for text in texts))
            and any(
                query.reason in ("", a.reason)
                and a.length >= query.low
                and (not query.high or a.length <= query.high)
                for a in answers
            )
        )

    def list_page(self, query: Query) -> str:
        """The list under a query, as HTML."""
        places = self.found(query)
        start = min(query.page * PAGE, max(len(places) - 1, 0) // PAGE * PAGE)
        shown = places[start : start + PAGE]
        flips = [f"{a}>{b}" for a in self.arms for b in self.arms if a != b]
        return _render(
            "browse_list.html.j2",
            library=self,
            query=query,
            rows=[(i, self.items[i]) for i in shown],
            num=len(places),
            start=start,
            previous=query.url(page=start // PAGE - 1) if start else "",
            following=query.url(page=start // PAGE + 1) if start + PAGE < len(places) else "",
            flips=flips,
            sorts=list(SORTS),
        )

    def item_page(self, place: int, query: Query) -> str:
        """One prompt with all its answers and a player, as HTML. IndexError for no such place."""
        item = self.items[place]
        played: list[dict[str, Any]] = []
        for answer in item.answers.values():
            t = answer.load()
            ids = t.response_ids_N.tolist()
            texts = [str(i) for i in ids] if self.tokens is None else self.tokens(ids)
            slots = [
                {"text": _visible(text), "step": step, "entropy": entropy, "tint": _tint(entropy)}
                for text, step, entropy in zip(
                    texts, t.step_N.tolist(), t.entropy_N.tolist(), strict=True
                )
            ]
            played.append({"answer": answer, "slots": slots, "last": int(t.step_N.max()) + 1})
        difficulty = "" if item.difficulty is None else f"{item.difficulty:g}"
        told = {
            "prompt": item.prompt,
            "reference": item.reference,
            "set": item.set,
            "difficulty": difficulty,
            "id": item.id,
        }
        places = self.found(query)
        at = places.index(place) if place in places else -1
        around = [
            places[at - 1] if at > 0 else None,
            places[at + 1] if 0 <= at < len(places) - 1 else None,
        ]
        return _render(
            "browse_item.html.j2",
            library=self,
            query=query,
            item=item,
            place=place,
            told=told,
            played=played,
            last=max(one["last"] for one in played),
            back=query.url(),
            around=[None if p is None else f"/item/{p}" + query.url()[1:] for p in around],
        )


def _visible(text: str) -> str:
    """A token's text, with signs for ends of lines, and for spaces where there is nothing else."""
    return text.translate(_SIGNS if text.strip() else _SIGNS | {32: "␣"})


def _tint(entropy: float) -> str:
    """0 to 1, full at 2 nats; of a slot that was never revealed nothing."""
    return f"{min(entropy, 2.0) / 2:.2f}" if math.isfinite(entropy) else "0"


def _render(template: str, **values: Any) -> str:
    style = Markup(asset("report.css") + asset("browse.css"))
    return filled(template, style=style, script=Markup(asset("browse.js")), **values)
