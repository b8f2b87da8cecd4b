"""Evaluating a set with the real decoder, on a random model of the toy family."""

import numpy as np
import pytest

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.diagnostics.tds import tds
from tabom.evaluation.run import evaluate_set, slot_texts
from tabom.verify.checker import Response
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

NUM_SLOTS = 16


CHECKER = build_checker(VerifierConfig(type="function", function="tabom.toyworld.tasks:check"))


def run(model, requests, **options):
    known = {
        "name": "chain",
        "role": "in_domain",
        "checker": CHECKER,
        "decoding": DecodingConfig(max_new_tokens=NUM_SLOTS),
        "seed": 0,
        "batch_size": 4,
    }
    return evaluate_set(model, requests, **{**known, **options})


def test_one_record_per_request_and_speed(model, requests):
    done = []
    result = run(
        model,
        requests,
        tokens_per_step=(1, 4),
        record_field_for=2,
        progress=lambda i, n: done.append((i, n)),
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
    assert done == [(i + 1, 10) for i in range(10)]


def test_records_agree_with_trajectories(model, requests):
    result = run(model, requests)
    end = model.ids.eos[0]
    for record, trajectory in zip(result.records, result.trajectories, strict=True):
        verdict = CHECKER.judge_one(
            Response.of(trajectory, mask_id=model.ids.mask, end_ids=model.ids.eos)
        )
        assert (record.reason, record.correct) == (verdict.reason, int(verdict.is_accepted))
        ids = trajectory.response_ids_N.tolist()
        if end in ids:
            assert record.length == ids.index(end) + 1
            assert record.end_step == trajectory.step_N[ids.index(end)]
        else:
            assert (record.length, record.end_step) == (NUM_SLOTS, -1)
        assert (record.set, record.role) == ("chain", "in_domain")
        assert record.response == trajectory.response


def test_fields_and_tds(model, requests):
    result = run(model, requests, record_field_for=3)
    for trajectory in result.trajectories[:3]:
        field_KN = result.fields[trajectory.id]
        assert field_KN.shape == (NUM_SLOTS, NUM_SLOTS)
        # Still masked before step k: revealed at k or later.
        steps = np.arange(NUM_SLOTS)[:, None]
        assert (np.isnan(field_KN) == (trajectory.step_N[None] < steps)).all()
    expected = tds(list(result.fields.values()), lengths=[r.length for r in result.records[:3]])
    np.testing.assert_array_equal(result.tds.mean_K, expected.mean_K)
    assert run(model, requests, record_field_for=0).tds is None


def test_recording_fields_changes_no_answer(model, requests):
    with_fields, without = run(model, requests), run(model, requests, record_field_for=0)
    assert with_fields.records == without.records


def test_metrics_see_row_slots_and_steps(model, requests):
    seen = []

    def metric(*, row, slots, step):
        seen.append((row, slots, step))
        return None if row["task"] == "sort" else len(seen) > 1

    result = run(model, requests, extra_metrics={"m": metric})
    assert [r.metrics["m"] for r in result.records] == [0.0, 1.0, 1.0, None, None]
    row, slots, step = seen[0]
    assert (row["id"], row["prompt"]) == (requests[0].id, requests[0].prompt)
    assert row["ground_truth"] == requests[0].row["ground_truth"]
    assert len(slots) == len(step) == NUM_SLOTS
    texts = slot_texts(model, result.trajectories[0])
    assert slots == [t or "_" for t in texts]


def test_the_toy_worlds_metric_fits(model, requests):
    from tabom.toyworld.diagnostics import premature_commit

    result = run(model, requests, extra_metrics={"premature_commit": premature_commit})
    found = [r.metrics["premature_commit"] for r in result.records]
    assert all(value in (0.0, 1.0) for value in found[:3])
    assert found[3:] == [None, None]


def test_end_tokens_and_masks_have_no_text(model, requests):
    (trajectory,) = run(model, requests[:1]).trajectories
    trajectory.response_ids_N[:3] = [model.ids.eos[0], model.ids.mask, 5]
    texts = slot_texts(model, trajectory)
    assert texts[:2] == ["", ""]
    assert texts[2] == model.tokenizer.decode([5])


def test_errors(model, requests):
    with pytest.raises(DataError, match="evaluation set 'chain': 0 requests"):
        run(model, [])
    with pytest.raises(DataError, match=r"speeds \[1, 1\]"):
        run(model, requests, tokens_per_step=(1, 1))

    def broken(*, row, slots, step):
        raise ValueError("no such column")

    with pytest.raises(DataError, match=r"metric 'm' failed on .* ValueError: no such column"):
        run(model, requests, extra_metrics={"m": broken})
