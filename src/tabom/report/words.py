"""Metrics and numbers as text, and the one sentence that says what was found and no more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tabom.core.text import duration
from tabom.evaluation.comparison import FORGETTING, NET_LOSS, SET, Comparison, MetricKey
from tabom.evaluation.scores import IN_DOMAIN, OUT_OF_DOMAIN, Leak
from tabom.evaluation.stats import Estimate
from tabom.report.data import Report
from tabom.report.tables import MINUS


class Metric(NamedTuple):
    """A key in words. better: which side is, "higher" or "lower", or "none"."""

    label: str
    help: str = ""
    better: str = "higher"


METRICS = {
    IN_DOMAIN: Metric("In-domain", "share of held-out prompts answered right"),
    OUT_OF_DOMAIN: Metric("Out-of-domain", "mean over the general tasks: what was not forgotten"),
    SET: Metric("", "share answered right on this set alone"),
    FORGETTING: Metric(
        "Forgetting",
        "mean over the out-of-domain sets of what each lost against the base, gains counting as "
        "none; noise alone makes it positive, so read its interval and the net loss",
        "lower",
    ),
    NET_LOSS: Metric("Net loss", "the same with gains taken off the losses", "lower"),
    "tds": Metric("TDS", "variance of the entropies over the masked slots (eq. 10-11)", "none"),
    "order_agreement": Metric(
        "Order agreement", "share of slot pairs whose entropies follow the base's decoding order"
    ),
    "kendall_tau": Metric(
        "Kendall tau", "rank correlation of entropies with the base's decoding order"
    ),
    "premature_commit": Metric(
        "Premature commit",
        "share of prompts whose first wrong token was revealed before what it depends on",
        "lower",
    ),
}


def metric_of(key: MetricKey) -> Metric:
    """A key in words."""
    name = key.kind.replace("_", " ")
    found = METRICS.get(key.kind, Metric(name if key.set else name.capitalize()))
    label, help_text, better = f"{key.set} {found.label}".strip(), found.help, found.better
    if key.pace:
        pace = pace_text(key.pace)
        label, help_text = f"{label}, {pace}", f"{help_text}, at {pace}"
    return Metric(label, help_text, better)


def pace_text(pace: str) -> str:
    """A pace in words: "2 a step", "threshold 0.9"."""
    return f"{pace} a step" if pace.isdigit() else pace


def fixed(value: float | None, digits: int, *, sign: bool = False) -> str:
    """`value` with `digits` decimals, a true minus, no negative zero; an en dash where absent."""
    if value is None or not math.isfinite(value):
        return "–"
    # The sign follows what is shown: -0.04 with one decimal is 0.0, not -0.0.
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


@dataclass(frozen=True)
class Format:
    """How the numbers of one metric are written: shares in percent with one decimal."""

    is_share: bool

    def number(self, value: float | None, *, sign: bool = False) -> str:
        """The number alone: "60.0", "+37.1", "0.739"."""
        digits = 1 if self.is_share else 3
        return fixed(None if value is None else self.scale * value, digits, sign=sign)

    @property
    def scale(self) -> float:
        return 100.0 if self.is_share else 1.0

    @property
    def unit(self) -> str:
        return "%" if self.is_share else ""

    def ends(self, estimate: Estimate | None, *, sign: bool = False) -> str:
        """The interval in brackets: "[+31.3, +43.0]"; "" where there is none."""
        if estimate is None or not estimate.has_interval:
            return ""
        ends = (self.number(end, sign=sign) for end in (estimate.low, estimate.high))
        return f"[{', '.join(ends)}]"

    def bracket(self, estimate: Estimate | None, *, sign: bool = False) -> str:
        """The number with its interval: "+37.1 [+31.3, +43.0]"; "" for no estimate."""
        if estimate is None:
            return ""
        return f"{self.number(estimate.value, sign=sign)} {self.ends(estimate, sign=sign)}".strip()


SHARE = Format(is_share=True)


def format_of(comparison: Comparison, key: MetricKey) -> Format:
    """The format of a metric; it is a share only if it is one for every arm."""
    return Format(all(row.is_share for row in comparison.rows if row.key == key))


def count(number: int, noun: str) -> str:
    """ "1 arm", "3 arms"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: Sequence[str]) -> str:
    """ "A", "A and B", "A, B and C"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def main_key(report: Report) -> MetricKey | None:
    """The metric by which arms are put in order: the mean in domain, or else the first column."""
    main = MetricKey(IN_DOMAIN)
    return main if main in report.columns else next(iter(report.columns), None)


def measured_order(report: Report) -> list[str]:
    """The arms from best to worst by the main metric; arms without it last, ties as declared."""
    comparison, key = report.comparison, main_key(report)
    sign = 1 if key is not None and metric_of(key).better == "lower" else -1
    rows = {arm: comparison.row(arm, key) for arm in comparison.arms}
    places = {arm: math.inf if row is None else sign * row.value.value for arm, row in rows.items()}
    return sorted(comparison.arms, key=lambda arm: places[arm])


def advantage(comparison: Comparison, first: str, second: str, key: MetricKey) -> int:
    """1 where the first arm is better than the second beyond doubt, -1 the reverse, else 0."""
    pair, better = comparison.pair(first, second, key), metric_of(key).better
    if pair is None or better == "none":
        return 0
    return pair.sign if better == "higher" else -pair.sign


def tone(comparison: Comparison, arm: str, key: MetricKey) -> str:
    """ "gain" or "loss" where an arm's change against the base can be told from none."""
    if comparison.base is None:
        return ""
    return {1: "gain", -1: "loss", 0: ""}[advantage(comparison, arm, comparison.base, key)]


def best_arm(comparison: Comparison, key: MetricKey) -> str | None:
    """The arm that is better than every other one that has the metric, if there is one."""
    arms = [arm for arm in comparison.arms if comparison.row(arm, key) is not None]
    for arm in arms if len(arms) > 1 else ():
        if all(advantage(comparison, arm, other, key) == 1 for other in arms if other != arm):
            return arm
    return None


def headline(report: Report) -> str:
    """One or two sentences made from the numbers: the leader, whether it is one, what it costs.

    Words are decided by the paired differences arm against arm, never by comparing intervals.
    """
    comparison, key = report.comparison, main_key(report)
    rows = [row for arm in measured_order(report) if (row := comparison.row(arm, key))]
    # An arm whose number is missing says nothing; it is not called worse.
    if key is None or not rows:
        return "This run has no evaluated arm."
    best, base, form = rows[0], comparison.base, format_of(comparison, key)
    label = metric_of(key).label
    label = label[:1].lower() + label[1:] if label[1:2].islower() else label
    value = f"{form.number(best.value.value)}{form.unit}"
    if len(rows) == 1:
        value = f"{value} {form.ends(best.value)}".strip()
        return f"{best.arm} reaches {value} {label}. There is no other arm to compare with."
    # Whoever is not told apart from the leader is named, in measured order.
    peers = [row.arm for row in rows[1:] if advantage(comparison, best.arm, row.arm, key) != 1]
    if best.arm == base:
        close = f" {listed(peers)} cannot be told apart from it." if peers else ""
        return f"No arm improves on {base}, which reaches {value} {label}.{close}"
    gain = f"{value} ({form.bracket(best.change, sign=True)} over {base})" if base else value
    cost = _cost(comparison, best.arm)
    if not peers:
        return f"{best.arm} leads {label} with {gain}, separably ahead of every other arm.{cost}"
    start = f"{best.arm} has the best {label} result, {gain}, but "
    if base in peers:
        return f"{start}it is not separable from {base}: this run shows no reliable gain."
    pair = comparison.pair(best.arm, peers[0], key)
    near = form.bracket(pair.difference if pair else None, sign=True) or "not paired"
    return f"{start}is not separable from {listed(peers)} ({near} to {peers[0]}).{cost}"


def _cost(comparison: Comparison, arm: str) -> str:
    """What the leader's change is out of domain."""
    key = MetricKey(OUT_OF_DOMAIN)
    row = comparison.row(arm, key)
    if row is None or row.change is None:
        return ""
    says = {
        "gain": "got better",
        "loss": "got worse",
        "": "has no change that can be told from zero",
    }
    change = format_of(comparison, key).bracket(row.change, sign=True)
    return f" Out of domain it {says[tone(comparison, arm, key)]}: {change}."


def facts(report: Report) -> dict[str, str]:
    """What the run was, in few words."""
    comparison = report.comparison
    found = {"made": report.created[:16].replace("T", " ")}
    found["compared"] = count(len(comparison.arms), "arm")
    found["repeated"] = count(len(report.seeds), "seed") if report.seeds else ""
    for role in dict.fromkeys(s.role for s in comparison.sets):
        total = sum(s.num_documents for s in comparison.sets if s.role == role)
        found[role.replace("_", " ")] = count(total, "prompt")
    found["work, all stages"] = duration(report.seconds or None)
    return {name: value for name, value in found.items() if value}


def alarms(report: Report) -> list[str]:
    """A sentence for each evaluation set whose prompts were trained on: it stands on top."""
    leaks: dict[Leak, list[str]] = {}
    for arm, leak in report.comparison.leaks:
        leaks.setdefault(leak, []).append(arm)
    found = []
    for leak, arms in leaks.items():
        near = f", and {leak.num_near} more overlap with one" if leak.num_near else ""
        found.append(
            f"Not held out: {leak.num_exact} of {count(leak.num_prompts, 'prompt')} of "
            f"{leak.set} occur in what {listed(arms)} trained on{near}. Its numbers say nothing of "
            "new prompts."
        )
    return found


def cautions(report: Report) -> list[str]:
    """What a reader must know before trusting the table; found in the numbers, not written."""
    comparison, found = report.comparison, []
    # The base has one run in any case: nothing of it depends on the seed.
    trained = [len(seeds) for arm, seeds in comparison.seeds.items() if arm != comparison.base]
    if len(comparison.arms) > 1 and trained and max(trained) == 1:
        found.append("One seed: intervals cover the prompts, not the spread between trainings.")
    small = [s for s in comparison.sets if 0 < s.num_documents < 100]
    if small:
        names = listed([f"{s.name} ({s.num_documents})" for s in small])
        found.append(f"Sets of fewer than 100 prompts: {names}. Expect wide intervals.")
    return found


def warnings(comparison: Comparison) -> list[str]:
    """One line for each setting in which an arm was evaluated otherwise than the base."""
    return [
        f"{d.arm} was evaluated otherwise than the base: {d.key} is {d.own!r} there, {d.base!r} "
        f"for the base ({', '.join(d.sets)})"
        for d in comparison.differences
    ]
