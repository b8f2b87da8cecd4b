"""Evaluating sets with the real decoder, on a random model of the toy family."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.diagnostics.tds import tds
from tabom.evaluation.benchmark import Benchmark
from tabom.evaluation.records import EvaluationRecord
from tabom.evaluation.run import evaluate, slot_texts
from tabom.evaluation.sets import EvaluationSet
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

NUM_SLOTS = 16
CHECKER = build_checker(VerifierConfig(type="function", function="tabom.toyworld.tasks:check"))


class Letters(Benchmark):
    until = ("a", "b")


def chain(requests, *, paces=(1,), decoding=None, **options):
    decodings = [
        DecodingConfig(max_new_tokens=NUM_SLOTS, **{"tokens_per_step": k, **(decoding or {})})
        for k in paces
    ]
    known = {"name": "chain", "role": "in_domain", "judges": {"accuracy": CHECKER}}
    return EvaluationSet(questions=requests, decodings=decodings, **{**known, **options})


def run(model, requests, *, num_fields=64, progress=lambda *_: None, **options):
    with TemporaryDirectory() as folder:
        (result,) = evaluate(
            model,
            [chain(requests, **options)],
            seed=0,
            batch_size=4,
            folder=Path(folder),
            num_fields=num_fields,
            progress=progress,
        )
    return result


def test_one_record_per_question_and_pace(model, requests):
    done = []
    result = run(
        model, requests, paces=(1, 4), num_fields=2, progress=lambda *given: done.append(given)
    )
    ids = [r.id for r in requests]
    assert [(r.tokens_per_step, r.id) for r in result.records] == [
        (k, i) for k in (1, 4) for i in ids
    ]
    assert {r.num_forwards for r in result.records[:5]} == {16}
    assert {r.num_forwards for r in result.records[5:]} == {4}
    assert {r.tokens_per_forward for r in result.records[5:]} == {4.0}
    assert [t.id for t in result.trajectories] == ids
    assert all(t.num_forwards == 16 for t in result.trajectories)
    assert list(result.fields) == ids[:2]
    assert [given for given in done if len(given) == 2] == [(i + 1, 10) for i in range(10)]
    assert (10, 10, "judging chain: 5 of 5") in done
    assert result.totals["4"]["num_forwards"] == 4.0
    assert result.totals["4"]["accuracy"] == np.mean([r.correct for r in result.records[5:]])
    assert result.manifests["4"]["decoding"]["tokens_per_step"] == 4


def test_records_agree_with_trajectories(model, requests):
    result = run(model, requests)
    end = model.ids.eos[0]
    for record, trajectory in zip(result.records, result.trajectories, strict=True):
        response = Response.of(trajectory, mask_id=model.ids.mask, end_ids=model.ids.eos)
        verdict = CHECKER.judge_one(response)
        assert (record.reason, record.correct) == (verdict.reason, int(verdict.is_accepted))
        ids = trajectory.response_ids_N.tolist()
        if end in ids:
            assert record.length == ids.index(end) + 1
            assert record.end_step == trajectory.step_N[ids.index(end)]
        else:
            assert (record.length, record.end_step) == (NUM_SLOTS, -1)
        assert (record.set, record.role, record.sample) == ("chain", "in_domain", 0)
        assert record.response == trajectory.response


def test_fields_and_tds(model, requests):
    result = run(model, requests, num_fields=3)
    for trajectory in result.trajectories[:3]:
        field_KN = result.fields[trajectory.id]
        assert field_KN.shape == (NUM_SLOTS, NUM_SLOTS)
        # Still masked before step k: revealed at k or later.
        steps = np.arange(NUM_SLOTS)[:, None]
        assert (np.isnan(field_KN) == (trajectory.step_N[None] < steps)).all()
    expected = tds(list(result.fields.values()), lengths=[r.length for r in result.records[:3]])
    np.testing.assert_array_equal(result.tds(model.ids.eos).mean_K, expected.mean_K)
    assert run(model, requests, num_fields=0).tds(model.ids.eos) is None


def test_recording_fields_changes_no_answer(model, requests):
    with_fields, without = run(model, requests), run(model, requests, num_fields=0)
    assert with_fields.records == without.records


def test_metrics_see_row_slots_and_steps(model, requests):
    seen = []

    def metric(*, row, slots, step):
        seen.append((row, slots, step))
        return None if row["task"] == "sort" else len(seen) > 1

    result = run(model, requests, metrics={"m": metric})
    assert [r.metrics["m"] for r in result.records] == [0.0, 1.0, 1.0, None, None]
    row, slots, step = seen[0]
    assert (row["id"], row["prompt"]) == (requests[0].id, requests[0].prompt)
    assert row["ground_truth"] == requests[0].row["ground_truth"]
    assert len(slots) == len(step) == NUM_SLOTS
    texts = slot_texts(model, result.trajectories[0])
    assert slots == [t or "_" for t in texts]


def test_the_toy_worlds_metric_fits(model, requests):
    from tabom.toyworld.diagnostics import premature_commit

    result = run(model, requests, metrics={"premature_commit": premature_commit})
    found = [r.metrics["premature_commit"] for r in result.records]
    assert all(value in (0.0, 1.0) for value in found[:3])
    assert found[3:] == [None, None]


def test_end_tokens_and_masks_have_no_text(model, requests):
    (trajectory,) = run(model, requests[:1]).trajectories
    trajectory.response_ids_N[:3] = [model.ids.eos[0], model.ids.mask, 5]
    texts = slot_texts(model, trajectory)
    assert texts[:2] == ["", ""]
    assert texts[2] == model.tokenizer.decode([5])


def test_the_first_judge_decides_and_the_others_stand_beside_it(model, requests):
    def long(least):
        return Checker(
            name=f"long {least}",
            judge=lambda r: Verdict("accepted" if len(r.text) >= least else "wrong", "seen"),
            needs_complete=False,
        )

    result = run(model, requests, judges={"any": long(0), "never": long(1000)}, benchmark=Letters())
    assert [(r.correct, r.metrics["never"], r.detail) for r in result.records] == [
        (1, 0.0, "seen")
    ] * 5
    assert {k: result.totals["1"][k] for k in ("any", "never")} == {"any": 1.0, "never": 0.0}
    assert not any(set("ab") & set(r.response) for r in result.records)  # texts end there


def test_samples_are_told_apart_and_need_draws(model, requests):
    from dataclasses import replace

    twice = [
        replace(q, id=f"{q.id}-{sample}", sample=sample) for q in requests for sample in (0, 1)
    ]
    result = run(model, twice, decoding={"temperature": 1.0})
    assert [(r.id, r.sample) for r in result.records[:2]] == [
        (requests[0].document, 0),
        (requests[0].document, 1),
    ]
    assert result.records[0].response != result.records[1].response
    with pytest.raises(ConfigError, match="'chain' asks for several samples"):
        chain(twice)


def test_errors(model, requests):
    with pytest.raises(DataError, match="evaluation set 'chain': 0 questions"):
        chain([])
    with pytest.raises(DataError, match="2 questions have 1 different ids"):
        chain([requests[0], requests[0]])

    def broken(*, row, slots, step):
        raise ValueError("no such column")

    with pytest.raises(DataError, match=r"metric 'm' failed on .* ValueError: no such column"):
        run(model, requests, metrics={"m": broken})


def test_two_sets_one_after_the_other(model, requests, tmp_path):
    sets = [chain(requests[:2]), chain(requests, paces=(8,), name="other", role="out_of_domain")]
    first, second = evaluate(model, sets, seed=0, batch_size=4, folder=tmp_path)
    records = [*first.records, *second.records]
    assert all(isinstance(record, EvaluationRecord) for record in records)
    assert [(r.set, r.role) for r in records] == [("chain", "in_domain")] * 2 + [
        ("other", "out_of_domain")
    ] * 5
