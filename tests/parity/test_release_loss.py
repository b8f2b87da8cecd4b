"""The authors' training loss, case by case: total loss and the gradient of every logit row.

The logits of a case are fed as hidden states under an identity head, so that the gathered head,
the context and the terms are all on the path.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows


def _cases(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "golden_release_loss.json").read_text())


def _batch(case: dict[str, Any]) -> TrajectoryBatch:
    response_BN = torch.tensor(case["response_ids"])
    step_BN = torch.tensor(case["decode_step"])
    num_responses, num_slots = response_BN.shape
    last = torch.iinfo(torch.int64).max
    order_BN = step_BN.masked_fill(step_BN < 0, last).argsort(dim=1, stable=True).argsort(dim=1)
    return TrajectoryBatch(
        prompt_ids_BP=torch.zeros(num_responses, case["prompt_len"], dtype=torch.int64),
        prompt_mask_BP=torch.ones(num_responses, case["prompt_len"], dtype=torch.int64),
        response_ids_BN=response_BN,
        key_B=torch.arange(num_responses),
        slot_BN=step_BN >= 0,
        length_B=torch.full((num_responses,), num_slots),
        mask_id=case["mask_id"],
        order_BN=order_BN.masked_fill(step_BN < 0, -1),
        step_BN=step_BN,
    )


def _cuts(case: dict[str, Any], batch: TrajectoryBatch) -> Tensor:
    """The drawn cuts, with a filler for the responses that the release skipped."""
    assert batch.step_BN is not None
    allowed_BN = batch.slot_BN
    if not case["supervise_padding"]:
        allowed_BN = allowed_BN & (batch.response_ids_BN != case["pad_id"])
    last_step_B = batch.step_BN.masked_fill(~allowed_BN, -1).amax(1)
    is_used_B = last_step_B >= case["supervision_window_steps"]
    cut_B = torch.zeros_like(last_step_B)
    cut_B[is_used_B] = torch.tensor(case["cuts_drawn"], dtype=torch.int64)
    return cut_B


def _release_loss(
    case: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    batch = _batch(case)
    objective = build_objective(
        "tabom_release",
        window=case["supervision_window_steps"],
        rank_window=case["rank_window_steps"],
        rank_weight=case["rank_weight"],
        margin=case["margin"],
        supervise_padding=case["supervise_padding"],
        pad_id=case["pad_id"],
    )
    context = objective.draw(batch, seed=0, step=0, cut_B=_cuts(case, batch))
    logits_BSV = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
    row = case["prompt_len"] + context.row_slot_R - int(case["shift"])
    hidden_RV = logits_BSV[context.row_batch_R, row]
    head = torch.eye(logits_BSV.shape[2], dtype=dtype)
    outputs = objective.term_sums(Rows.of_head(hidden_RV, head, context.label_R), context)
    loss = objective.total(outputs.sums, context.counts)
    loss.backward()
    assert logits_BSV.grad is not None
    return loss.detach(), logits_BSV.grad.norm(dim=2)


def test_every_case_gives_the_release_loss_and_row_gradients(golden: Path) -> None:
    cases = _cases(golden)
    assert cases
    for case in cases:
        loss, grad_BS = _release_loss(case)
        where = f"seed {case['seed']}, tokens_per_step {case['tokens_per_step']}"
        assert loss.item() == pytest.approx(case["loss"], abs=1e-5), where
        expected_BS = torch.tensor(case["grad_row_norms"])
        assert (grad_BS - expected_BS).abs().max().item() < 1e-5, where


def test_a_change_of_the_rule_would_be_seen(golden: Path) -> None:
    """The cases must tell margins, weights and cuts from near ones (guards the test above).

    Some case must, not each: with one ranked slot, or a tiny weight, a margin has no effect.
    """
    effects: dict[str, list[float]] = {}
    for case in _cases(golden):
        if not case["cuts_drawn"]:
            continue  # every response skipped
        changes: dict[str, Any] = {"cuts_drawn": [c + 1 for c in case["cuts_drawn"]]}
        if case["rank_weight"] > 0:
            changes |= {"margin": case["margin"] + 0.01, "rank_weight": 0}
        for name, value in changes.items():
            loss, _ = _release_loss({**case, name: value})
            effects.setdefault(name, []).append(abs(loss.item() - case["loss"]))
    assert all(max(sizes) > 1e-4 for sizes in effects.values()), effects
