"""Runs that answered the same documents, taken against one of them and against each other.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.answers import Answers, Cell, Score, accuracy, metric, pass_at
from tabom.evaluation.comparison import (
    DIFFICULTY,
    FORGETTING,
    NET_LOSS,
    SET,
    Boundary,
    Comparison,
    Cost,
    Difference,
    EvaluatedSet,
    MetricKey,
    Pair,
    Row,
    TaskTest,
)
from tabom.evaluation.manifest import differences
from tabom.evaluation.scores import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    EvaluatedRun,
    Scores,
    partners,
)
from tabom.evaluation.stats import (
    LEVEL,
    NUM_RESAMPLES,
    Estimate,
    Floats,
    loss_interval,
    mcnemar_p,
    mean_estimate,
    t_interval,
    tango_interval,
)


def compare(
    runs: Sequence[EvaluatedRun],
    *,
    base: str | None,
    in_domain: Sequence[str] = (),
    ks: Sequence[int] | None = None,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare runs that were evaluated on the same documents.

    base: the arm that changes are taken against; it has the same seeds as the others, or one run
        that stands for all. in_domain: the sets that are, the others are not; none: as recorded.
        ks: of pass@k; None takes powers of two, where there are samples.
    Rows, for each arm: accuracies in and out of domain at the slowest pace of each set (every set
        counts alike), then at every further pace; each set alone; forgetting, the mean over the
        out-of-domain sets of max(0, base - arm), and beside it the signed net loss; the mean of
        every metric of the records over in-domain sets at their slowest pace; every scalar.
    Intervals: `mean_estimate` for scores, Student's t for scalars, `loss_interval` for forgetting.
    Raises: DataError if the runs have other sets or documents; ConfigError for ks beyond the
        samples, and for a base or a set that is none.
    """
    scores = Scores(runs, base=base, in_domain=in_domain)
    numbers = _Numbers(scores, ks=ks, level=level, num_resamples=num_resamples)
    return Comparison(
        base=base,
        level=level,
        seeds={arm: tuple(run.seed for run in group) for arm, group in scores.arms.items()},
        sets=[
            EvaluatedSet(
                name=name,
                role=role,
                num_documents=scores.answers[runs[0]][name, scores.slowest[name]].num_documents,
            )
            for name, role in scores.roles.items()
        ],
        rows=numbers.rows,
        pairs=numbers.pairs,
        tests=_tests(scores, level),
        costs=_costs(scores),
        boundaries=_boundaries(scores),
        differences=_differences(scores),
        held_out=list(dict.fromkeys((run.arm, n) for run in runs for n in run.held_out_notes)),
        leaks=list(dict.fromkeys((run.arm, leak) for run in runs for leak in run.leaks)),
    )


class _Numbers:
    """The rows and the pairs of a comparison, key by key."""

    def __init__(
        self, scores: Scores, *, ks: Sequence[int] | None, level: float, num_resamples: int
    ) -> None:
        self.scores, self.level = scores, level
        self.options: dict[str, Any] = {"level": level, "num_resamples": num_resamples}
        self._rows: dict[tuple[str, MetricKey], Row] = {}
        self.pairs: list[Pair] = []
        arms, base = scores.arms, scores.base
        # Every two arms with their runs by seed. The base always stands second, so that its pairs
        # are the changes of the rows.
        turned = [(b, a) if a == base else (a, b) for a, b in combinations(arms, 2)]
        self.partnered = [(a, b, partners(arms[a], arms[b])) for a, b in turned]
        for key, cells in _accuracy_cells(scores).items():
            self._add_scores(key, cells, accuracy)
        for name, cells in _metric_cells(scores).items():
            self._add_scores(MetricKey(name), cells, metric(name))
        for cell, k in _sampled(scores, ks):
            key = MetricKey(f"pass@{k}", set=cell[0], pace=_pace_text(scores, cell))
            self._add_scores(key, [cell], pass_at(k))
        runs = [run for group in scores.arms.values() for run in group]
        for name in dict.fromkeys(name for run in runs for name in run.scalars):
            self._add_scalar(MetricKey(name))

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def _add_scores(self, key: MetricKey, cells: Sequence[Cell], score: Score) -> None:
        """The mean of each arm, and each two arms against each other."""
        arrays = {run: self.scores.values(run, cells, score) for run in self.scores.answers}
        for arm, group in self.scores.arms.items():
            values = [np.stack([arrays[run][i] for run in group]) for i in range(len(cells))]
            # Only zeros and ones make a share that can be shown in percent.
            known = np.concatenate([v[~np.isnan(v)] for v in values])
            by_seed = [float(np.mean([_mean(v) for v in arrays[run]])) for run in group]
            row = Row(
                arm=arm,
                key=key,
                value=self._estimate(values, group, cells),
                by_seed=tuple(by_seed),
                num_documents=sum(v.shape[1] for v in values),
                # Accuracies also where each document's is a mean over several samples.
                is_share=key.is_accuracy or bool(np.isin(known, (0.0, 1.0)).all()),
            )
            self._add_row(row)
            if key == MetricKey(OUT_OF_DOMAIN) and arm == self.scores.base:
                for kind in (FORGETTING, NET_LOSS):
                    self._add_row(
                        Row(arm=arm, key=MetricKey(kind), value=Estimate(value=0.0), by_seed=())
                    )
        for first, second, both in self.partnered:
            # Arms without a common seed, or with other documents, cannot be paired: no sentence
            # will be said about them.
            if not both or not all(self.scores.is_crossed(pair, cells) for pair in both):
                continue
            runs = [run for run, _ in both]
            changes = [
                np.stack([arrays[a][i] - arrays[b][i] for a, b in both]) for i in range(len(cells))
            ]
            # An exact test exists for one pair of runs on one set; seeds would have to be pooled.
            p = None
            if len(both) == len(cells) == 1 and np.isin(changes[0], (-1.0, 0.0, 1.0)).all():
                p = mcnemar_p(int((changes[0] > 0).sum()), int((changes[0] < 0).sum()))
            estimate = self._estimate(changes, runs, cells, is_difference=True)
            self._add_pair(first, second, key, estimate, p)
            if key == MetricKey(OUT_OF_DOMAIN) and second == self.scores.base:
                is_crossed = self.scores.is_crossed(runs, cells)
                lost = loss_interval(changes, is_crossed=is_crossed, **self.options)
                for kind, value in ((FORGETTING, lost), (NET_LOSS, -estimate)):
                    self._add_row(Row(arm=first, key=MetricKey(kind), value=value, by_seed=()))

    def _estimate(
        self,
        values: Sequence[Any],
        runs: Sequence[EvaluatedRun],
        cells: Sequence[Cell],
        *,
        is_difference: bool = False,
    ) -> Estimate:
        is_crossed = self.scores.is_crossed(runs, cells)
        return mean_estimate(
            values, is_difference=is_difference, is_crossed=is_crossed, **self.options
        )

    def _add_scalar(self, key: MetricKey) -> None:
        """One number a run: means and paired changes with Student's t."""
        for arm, group in self.scores.arms.items():
            own = [_scalar(run, key) for run in group]
            value = t_interval(own, level=self.level)
            self._add_row(Row(arm=arm, key=key, value=value, by_seed=tuple(own), is_share=False))
        for first, second, both in self.partnered:
            if both:
                changes = [_scalar(a, key) - _scalar(b, key) for a, b in both]
                self._add_pair(first, second, key, t_interval(changes, level=self.level), None)

    def _add_row(self, row: Row) -> None:
        if (row.arm, row.key) in self._rows:
            raise DataError(
                f"two numbers of the comparison are called {row.key.kind!r}; give the metric or "
                "the scalar another name"
            )
        self._rows[row.arm, row.key] = row

    def _add_pair(
        self, first: str, second: str, key: MetricKey, difference: Estimate, p: float | None
    ) -> None:
        # A comparison with NaN is false: without an interval nothing is told apart.
        is_told = (difference.low > 0 or difference.high < 0) and (p is None or p < 1 - self.level)
        sign = int(math.copysign(1, difference.value)) if is_told else 0
        self.pairs.append(
            Pair(first=first, second=second, key=key, difference=difference, p=p, sign=sign)
        )
        if second == self.scores.base:
            self._rows[first, key] = replace(self._rows[first, key], change=difference)


def _mean(row_D: Any) -> float:
    known = row_D[~np.isnan(row_D)]
    return float(known.mean()) if len(known) else math.nan


def _scalar(run: EvaluatedRun, key: MetricKey) -> float:
    value = run.scalars.get(key.kind)
    return math.nan if value is None else float(value)


def _pace_text(scores: Scores, cell: Cell) -> str:
    return "" if cell[1] == scores.slowest[cell[0]] else str(cell[1])


def _sampled(scores: Scores, ks: Sequence[int] | None) -> list[tuple[Cell, int]]:
    """Every cell with each k of pass@k: by default powers of two, where there are samples.

    Samples are those of one model: seeds are models of their own, and are averaged, not pooled.
    """
    found = []
    for cell in scores.cells:
        numbers = {run: cells[cell].num_samples for run, cells in scores.answers.items()}
        most = max(numbers.values())
        for run, number in numbers.items():
            if ks is not None and max(ks) > number:
                raise ConfigError(
                    f"pass@{max(ks)} needs as many samples of each document; {run} has {number} "
                    f"on {cell[0]!r} (tabom evaluate --num_samples)"
                )
        powers = {2**i for i in range(most.bit_length()) if 2**i <= most}
        found += [(cell, k) for k in ks or (sorted({*powers, most}) if most > 1 else ())]
    return found


def _accuracy_cells(scores: Scores) -> dict[MetricKey, list[Cell]]:
    """The cells of every accuracy: by role at the slowest pace, by role and pace, set by set."""
    keys: dict[MetricKey, list[Cell]] = {}
    for role in (IN_DOMAIN, OUT_OF_DOMAIN):
        here = [cell for cell in scores.cells if scores.roles[cell[0]] == role]
        first = [cell for cell in here if cell[1] == scores.slowest[cell[0]]]
        if first:
            keys[MetricKey(role)] = first
        for pace in sorted({pace for _, pace in here}):
            at_pace = [cell for cell in here if cell[1] == pace]
            if at_pace != first:
                keys[MetricKey(role, pace=str(pace))] = at_pace
    for cell in scores.cells:
        keys[MetricKey(SET, set=cell[0], pace=_pace_text(scores, cell))] = [cell]
    return keys


def _metric_cells(scores: Scores) -> dict[str, list[Cell]]:
    """The metrics of the records, each with the in-domain sets that have it."""
    found: dict[str, list[Cell]] = {}
    for cell in _accuracy_cells(scores).get(MetricKey(IN_DOMAIN), []):
        known = (name for cells in scores.answers.values() for name in cells[cell].metrics)
        for name in dict.fromkeys(name for name in known if name != DIFFICULTY):
            found.setdefault(name, []).append(cell)
    return found


def _tests(scores: Scores, level: float) -> list[TaskTest]:
    """On the first sample of each document: the tests are of zeros and ones."""
    tests = []
    for place, own, there in _beside_base(scores):
        # Further samples of a document depend on each other, so the test takes the first.
        change_D = own.first_D - there.first_D
        gained, lost = int((change_D > 0).sum()), int((change_D < 0).sum())
        tests.append(
            TaskTest(
                **place,
                num_documents=own.num_documents,
                gained=gained,
                lost=lost,
                change=tango_interval(gained, lost, own.num_documents, level=level),
                p=mcnemar_p(gained, lost),
            )
        )
    return tests


def _beside_base(scores: Scores) -> Iterator[tuple[dict[str, Any], Answers, Answers]]:
    """Every run of every arm in every cell: arm, seed, set and pace, its answers, the base's."""
    for arm in scores.arms:
        for run, base in scores.to_base(arm):
            for cell in scores.cells:
                place = {"arm": arm, "seed": run.seed, "set": cell[0], "pace": str(cell[1])}
                yield place, scores.answers[run][cell], scores.answers[base][cell]


def _costs(scores: Scores) -> list[Cost]:
    """Every arm on every set at every pace it has, the slow ones first."""
    costs, sets = [], list(scores.roles)
    for arm, group in scores.arms.items():
        cells: dict[Cell, list[Answers]] = {}
        for run in group:
            for cell, answers in run.answers.items():
                cells.setdefault(cell, []).append(answers)
        own = [
            Cost(
                arm=arm,
                set=name,
                pace=str(pace),
                accuracy=_over_seeds([a.correct_A for a in runs]),
                tokens_per_forward=_over_seeds([a.tokens_per_forward_A for a in runs]),
                num_forwards=_over_seeds([a.num_forwards_A for a in runs]),
            )
            for (name, pace), runs in cells.items()
        ]
        costs += sorted(own, key=lambda cost: (sets.index(cost.set), -cost.num_forwards))
    return costs


def _over_seeds(rows: Sequence[Floats]) -> float:
    return float(np.mean([np.mean(row) for row in rows]))


def _boundaries(scores: Scores) -> list[Boundary]:
    """Of equally many samples of both; a single one shows no boundary."""
    found = []
    for place, own, there in _beside_base(scores):
        k = min(own.num_samples, there.num_samples)
        if k < 2:
            continue
        own_D, base_D = own.solved(k), there.solved(k)
        found.append(
            Boundary(
                **place,
                k=k,
                gained=tuple(own.id_D[own_D & ~base_D].tolist()),
                lost=tuple(own.id_D[base_D & ~own_D].tolist()),
                both=int((own_D & base_D).sum()),
                neither=int((~own_D & ~base_D).sum()),
            )
        )
    return found


def _differences(scores: Scores) -> list[Difference]:
    """Against the base's first run; without a base, against the first run of all."""
    runs = list(scores.answers)
    first = next((run for run in runs if run.arm == scores.base), runs[0])
    # Manifests are kept by the pace as recorded, cells may be compared by tokens a step.
    manifests = {
        run: {scores.folded(c): run.manifests.get(c[0], {}).get(str(c[1])) for c in run.answers}
        for run in runs
    }
    found: dict[tuple[str, str, str, str], Difference] = {}
    for run in runs:
        for cell, own in manifests[run].items():
            there = manifests[first].get(cell)
            for key, (old, new) in differences(there, own).items() if own and there else ():
                place = (run.arm, key, repr(old), repr(new))
                known = found[place].sets if place in found else ()
                sets = tuple(dict.fromkeys([*known, f"{cell[0]}@{cell[1]}"]))
                found[place] = Difference(arm=run.arm, key=key, base=old, own=new, sets=sets)
    return list(found.values())
