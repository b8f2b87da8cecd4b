"""Losses of other projects, case by case: the total and the gradient of every logit row.

The logits of a case are fed as hidden states under an identity head in float64, and the context
that the official code drew is forced, so that presets, contexts, terms, the head and its backward
are all on the path. Files are found by listing `$TABOM_GOLDEN/objectives`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import GOLDEN
from torch import Tensor

from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.block_contexts import path_weights
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import Sample
from tabom.objectives.mixture import AnyObjective, Mixture
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows

Case = dict[str, Any]
SKIPPED = {
    "espo": "its ratio is of a whole response over two contexts and draws: more than a row",
    "lladou": "its slots are drawn by a module of its own, which tabom's models do not have",
}
LOOSE = {"justgrpo": 1e-5, "tracerl": 1e-5}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a case asks: the objective, the forced contexts, and where each one's logits stand.

    logits: by context, `[B, rows, V]`; first: the row of slot 0. reference: the same of a teacher.
    """

    objective: AnyObjective
    batch: TrajectoryBatch
    samples: list[Sample]
    logits: list[Tensor]
    first: int
    reference: tuple[Tensor, int] | None = None


def _bool(value: Any) -> Tensor:
    return torch.tensor(value).bool()


def _batch(case: Case, *, step: Tensor | None = None, **more: Any) -> TrajectoryBatch:
    response_BN = torch.tensor(case["response_ids"])
    batch_size, num_slots = response_BN.shape
    prompt_BP = torch.tensor(case.get("prompt_ids", [[0]] * batch_size))
    # Contexts are forced, so any order serves where the case has none.
    step_BN = torch.arange(num_slots).expand(batch_size, -1) if step is None else step
    last = torch.iinfo(torch.int64).max
    order_BN = step_BN.masked_fill(step_BN < 0, last).argsort(dim=1, stable=True).argsort(dim=1)
    defaults: dict[str, Any] = {
        "prompt_ids_BP": prompt_BP,
        "prompt_mask_BP": torch.tensor(
            case.get("prompt_mask", [[1] * prompt_BP.shape[1]] * len(prompt_BP))
        ),
        "slot_BN": torch.ones_like(response_BN, dtype=torch.bool),
        "key_B": torch.arange(batch_size),
        "length_B": torch.full((batch_size,), num_slots),
    }
    return TrajectoryBatch(
        response_ids_BN=response_BN,
        mask_id=case.get("mask_id", 0),
        order_BN=order_BN,
        step_BN=step_BN,
        **{**defaults, **more},
    )


def _doubles(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def _masked(case: Case, batch: TrajectoryBatch, **options: Any) -> Question:
    """A question at random masks, of which the case gives all."""
    masked_BN = _bool(case["masked"])
    time_B = torch.tensor(case.get("time") or case["probability"], dtype=torch.float64)
    sample = Sample.of(~masked_BN, masked_BN & batch.slot_BN, time_B=time_B)
    return Question(
        objective=build_objective(**options),
        batch=batch,
        samples=[sample],
        logits=[_doubles(case["logits"])],
        first=case["prompt_len"] - case["shift"],
    )


def _sft_llada(case: Case) -> Question:
    return _masked(case, _batch(case), name="sft_llada")


def _sft_dream(case: Case) -> Question:
    weighting = {"original": "inv_p", "none": "one"}.get(case["weighting"], case["weighting"])
    return _masked(
        case,
        _batch(case),
        name="sft_dream",
        weighting=weighting,
        cart_p=case["cart_p"],
        cart_pads=True,
        focal_gamma=float(case["focal_gamma"]) if case["focal"] else 0.0,
        focal_alpha=case["focal_alpha"],
    )


def _sft_dllm(case: Case) -> Question:
    kind, _, setting = case["weighting"].partition("[geo_p:")
    reductions = {"token": "labelled", "sequence": "length", "batch": "batch"}
    num_slots = len(case["response_ids"][0])
    labelled = num_slots - torch.tensor(case["unlabelled_tail"]).unsqueeze(1)
    return _masked(
        case,
        _batch(case, slot_BN=torch.arange(num_slots) < labelled),
        name="sft_dllm",
        schedule=case["schedule"],
        weighting={"uniform": "one"}.get(kind, kind),
        cart_p=float(setting.rstrip("]") or 0.3),
        reduction=reductions[case["normalisation"]],
    )


def _two_sided(case: Case, objective: AnyObjective) -> Question:
    samples, logits = [], []
    for end in ("", "_complement"):
        sample = Sample.of(~_bool(case["masked" + end]), _bool(case["target" + end]))
        samples.append(sample)
        logits.append(_doubles(case["logits" + end]))
    first = case["prompt_len"] - case["shift"]
    return Question(
        objective=objective, batch=_batch(case), samples=samples, logits=logits, first=first
    )


def _dparallel(case: Case) -> Question:
    return _two_sided(
        case,
        build_objective(
            "dparallel",
            certainty_weight=case["entropy_weight"],
            temperature=case["temperature"],
            certainty_per="micro_batch",
        ),
    )


def _d3llm(case: Case) -> Question:
    return _two_sided(
        case,
        build_objective(
            "d3llm",
            certainty_weight=case["entropy_weight"],
            temperature=case["temperature"],
            certainty_per="micro_batch",
            first_only=case["family"] == "llada",
        ),
    )


def _tad(case: Case) -> Question:
    near_BN, far_BN = _bool(case["near"]), _bool(case["distant"])
    return Question(
        objective=build_objective(
            "tad",
            ce_weight=case["ce_weight"],
            kl_weight=case["kl_weight"],
            temperature=case["tau"],
        ),
        batch=_batch(case, step=torch.tensor(case["step"])),
        samples=[Sample.of(~(near_BN | far_BN), near_BN, sets={"far": far_BN})],
        logits=[_doubles(case["logits"])],
        first=case["prompt_len"] - case["shift"],
        reference=(
            torch.tensor(case["teacher_logits"], dtype=torch.float64),
            case["teacher_prompt_len"] - case["shift"],
        ),
    )


def _path_places(case: Case) -> Tensor:
    """Places in the order of the block; a slot without a step is before all that have one, in a
    block that has any (T3D's edge rule, which our sampler does not draw)."""
    step_BN = torch.tensor(case["step"])
    place_BN = torch.full_like(step_BN, step_BN.shape[1])
    for b in range(len(step_BN)):
        for start in range(0, step_BN.shape[1], case["block_size"]):
            block = step_BN[b, start : start + case["block_size"]]
            if (block < 0).all():
                continue
            place = block.masked_fill(block < 0, 10**6).argsort(stable=True).argsort(stable=True)
            place_BN[b, start : start + len(block)] = place.masked_fill(block < 0, -1)
    return place_BN


def _t3d(case: Case) -> Question:
    path_BN = torch.tensor(case["response_ids"]) != case["pad_id"]
    weight_BN = path_weights(
        _path_places(case), path_BN, level=case["path_tokens_per_level"], block=case["block_size"]
    )
    hidden_BN = _bool(case["ddo_set"])
    sample = Sample.of(
        ~hidden_BN, weight_BN > 0, sets={"ddo": hidden_BN}, weight_BN=weight_BN,
        input_ids_BN=torch.tensor(case["context_ids"]),
    )  # fmt: skip
    return Question(
        objective=build_objective(
            "t3d", alpha=case["alpha"], beta=case["beta"], path_weight=case["path_weight"]
        ),
        batch=_batch(case, step=torch.tensor(case["step"])),
        samples=[sample],
        logits=[_doubles(case["logits"])],
        first=case["prompt_len"],
        reference=(torch.tensor(case["reference_logits"], dtype=torch.float64), case["prompt_len"]),
    )


def _by_row(case: Case, row_response: Tensor) -> Case:
    """The case with each row as a response of its own."""
    rows = {
        name: [case[name][b] for b in row_response.tolist()]
        for name in ("response_ids", "prompt_ids", "step")
    }
    return {**case, **rows}


def _tracerl(case: Case) -> Question:
    row_response = torch.tensor(case["row_response"])
    target_RN = _bool(case["target"])
    old = case["old_logp"]
    batch = _batch(
        _by_row(case, row_response),
        advantage_B=torch.tensor(case["advantage"], dtype=torch.float64)[row_response],
        old_logp_BN=None if old is None else torch.tensor(old, dtype=torch.float64),
    )
    is_sdar = case["family"] == "sdar"
    bound = {"per": "length", "log_bound": 10.0} if is_sdar else {}
    objective = build_objective(
        "tracerl",
        clip=case["clip"],
        drift_weight=case["kl_weight"],
        per=bound.get("per", "targets"),
    )
    assert isinstance(objective, Objective)
    # The preset has the loss of LLaDA and Dream; the rest of the settings belong to the terms.
    settings: list[dict[str, Any]] = [
        {"log_bound": bound.get("log_bound")},
        {"log_bound": bound.get("log_bound"), "per": bound.get("per", "sum"),
         "kind": "k3" if case["kl_k3"] else "k1"},
    ]  # fmt: skip
    terms = tuple(
        (weight, replace(term, **more))  # type: ignore[type-var]
        for (weight, term), more in zip(objective.terms, settings, strict=False)
    )
    return Question(
        objective=replace(objective, terms=terms),
        batch=batch,
        samples=[Sample.of(torch.tensor(case["context_ids"]) != case["mask_id"], target_RN)],
        logits=[_doubles(case["logits"])],
        first=case["prompt_len"] - case["shift"],
    )


def _justgrpo(case: Case) -> Question:
    official = case["variant"] == "official"
    per = {"token-mean": "token", "seq-mean-token-mean": "targets"}
    objective = build_objective(
        "justgrpo",
        clip=case["clip"],
        per="length" if official else per.get(case["aggregation"], "length"),
        temperature=case.get("temperature", 1.0),
        dual_clip=case.get("dual_clip"),
    )
    assert isinstance(objective, Objective)
    response_BN = torch.tensor(case["response_ids"])
    # One of DARE's aggregations adds responses up where ours averages them.
    is_sum = case.get("aggregation") == "seq-mean-token-sum-norm"
    scale = len(response_BN) if is_sum else case.get("gain", 1.0)
    terms = tuple((scale * weight, term) for weight, term in objective.terms)
    old = case.get("old_logp")
    batch = _batch(
        case,
        advantage_B=torch.tensor(case["advantage"], dtype=torch.float64),
        old_logp_BN=None if old is None else torch.tensor(old, dtype=torch.float64),
    )
    valid_BN = _bool(case["valid"]) if "valid" in case else torch.ones_like(response_BN).bool()
    return Question(
        objective=replace(objective, terms=terms),
        batch=batch,
        samples=[Sample.of(torch.zeros_like(valid_BN), valid_BN)],
        logits=[_doubles(case["asked_logits"])],
        first=0,
    )


def _d_opsd(case: Case) -> Question:
    context_RN = torch.tensor(case["context_ids"])
    num_rows = len(context_RN)
    rows = {name: [case[name]] * num_rows for name in ("prompt_ids", "response_ids", "step")}
    masked_RN = context_RN == case["mask_id"]
    block_N = torch.arange(context_RN.shape[1]) // case["block_size"]
    present_R = block_N[masked_RN.long().argmax(1)]
    here_RN = masked_RN & (block_N == present_R.unsqueeze(1))
    target_RN = _bool(case["target"])
    by_teacher = case["positions_from"] == "teacher logits"
    objective = build_objective(
        "d_opsd",
        positions="teacher" if by_teacher else "student",
        tokens=2,
        beta=case["beta"],
        top_k=case["top_k"] or 0,
        clip=case["entry_clip"],
        clip_what="entry",
    )
    assert isinstance(objective, Objective)
    # An answer that was not verified is not trained on at all; here it is, with weight 0.
    terms = tuple((weight * case["verified"], term) for weight, term in objective.terms)
    first = case["prompt_len"] - case["shift"]
    return Question(
        objective=replace(objective, terms=terms),
        batch=_batch({**case, **rows}),
        samples=[Sample.of(~masked_RN, target_RN, sets={"block": here_RN})],
        logits=[_doubles(case["logits"])],
        first=first,
        reference=(torch.tensor(case["teacher_logits"], dtype=torch.float64), first),
    )


BUILT: dict[str, Callable[[Case], Question]] = {
    "sft_llada": _sft_llada,
    "sft_dream": _sft_dream,
    "sft_dllm": _sft_dllm,
    "dparallel": _dparallel,
    "d3llm": _d3llm,
    "tad": _tad,
    "t3d": _t3d,
    "tracerl": _tracerl,
    "justgrpo": _justgrpo,
    "d_opsd": _d_opsd,
}


def _answer(question: Question) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the gradient norms of every row of each context's logits."""
    objective = question.objective
    if isinstance(objective, Mixture):
        context = objective.draw(question.batch, seed=0, step=0, sample=question.samples)
        parts = list(context.parts)
    else:
        context = objective.draw(question.batch, seed=0, step=0, sample=question.samples[0])
        parts = [context]
    hidden, reference = [], []
    for part, logits in zip(parts, question.logits, strict=True):
        hidden.append(logits[part.row_batch_R, question.first + part.row_slot_R])
        if question.reference is not None:
            teacher, first = question.reference
            reference.append(teacher[part.row_batch_R, first + part.row_slot_R])
    head = torch.eye(question.logits[0].shape[-1], dtype=torch.float64)
    rows = Rows.of_head(
        torch.cat(hidden),
        head,
        context.label_R,
        reference=(torch.cat(reference), head) if reference else None,
    )
    loss = objective.total(objective.term_sums(rows, context).sums, context.counts)
    loss.backward()
    grads = [torch.zeros_like(z) if z.grad is None else z.grad for z in question.logits]
    return loss.detach(), [grad.norm(dim=-1) for grad in grads]


def _cases() -> list[Any]:
    found = []
    for path in sorted((GOLDEN / "objectives").glob("*.json")):
        for i, case in enumerate(json.loads(path.read_text())["cases"]):
            found.append(pytest.param(path.stem, case, id=f"{path.stem}-{i}"))
    return found


@pytest.mark.parametrize(("name", "case"), _cases())
def test_official_loss_and_row_gradients(name: str, case: Case) -> None:
    if name in SKIPPED or name not in BUILT:
        pytest.skip(f"{name}: {SKIPPED.get(name, 'no such objective is built')}")
    loss, norms = _answer(BUILT[name](case))
    allowed = LOOSE.get(name, 2e-6)

    def close(found: Tensor, expected: Any) -> bool:
        expected = torch.tensor(expected, dtype=torch.float64)
        return bool(((found - expected).abs() <= allowed * expected.abs().clamp(min=1)).all())

    assert close(loss, case["loss"]), (float(loss), case["loss"])
    ends = ("", "_complement") if len(norms) > 1 else ("",)
    for end, norm in zip(ends, norms, strict=True):
        assert close(norm, case["grad_row_norms" + end])


def test_the_set_is_whole(golden: Path) -> None:
    """What is built is asked for, wherever the set has it."""
    names = {path.stem for path in (golden / "objectives").glob("*.json")}
    assert names <= set(BUILT) | set(SKIPPED)
