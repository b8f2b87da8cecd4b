"""The official schedules beside plain re-implementations of the published functions: whole runs.

    python benchmarks/official_schedules.py   # a few minutes

Ours records steps and entropies besides. Random networks with full vocabularies; tokens and steps
are equal, which is asserted first. (That ours equals the published functions themselves, entropies
included, is what `tests/parity/test_decoding.py` holds.)

Legend: B batch, S prompt + response, N response slots.
"""

import argparse
from typing import Any

import torch

import usual_decoding as usual
from common import SEED, Call, claim, paired, ratio, run_benchmark
from random_models import SMALL_BODY, build_model
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel

CASES: dict[str, dict[str, Any]] = {
    "Dream, entropy, T 0": {"family": "dream", "policy": "entropy"},
    "Dream, entropy, T 0.1, top-p 0.9": {
        "family": "dream", "policy": "entropy", "temperature": 0.1, "top_p": 0.9,
    },
    "LLaDA, blocks of 4, T 0": {
        "family": "llada", "policy": "low_confidence", "block_length": 4, "vocab_size": 126464,
    },
}  # fmt: skip


def make_calls(
    model: MaskedDiffusionModel, case: dict[str, Any], *, batch_size: int, num_slots: int
) -> dict[str, Call]:
    """Both ways to decode the same prompts; each gives ids and steps, int64 `[B, N]`."""
    options = {k: v for k, v in case.items() if k not in ("family", "vocab_size")}
    generator = torch.Generator().manual_seed(SEED)
    prompt_BP = torch.randint(0, model.vocab_size - 8, (batch_size, 32), generator=generator)
    masks_BN = torch.full((batch_size, num_slots), model.ids.mask)
    config = DecodingConfig(schedule="official", max_new_tokens=num_slots, **options)
    requests = [
        DecodeRequest(id=str(i), prompt_ids=ids) for i, ids in enumerate(prompt_BP.tolist())
    ]

    def ours() -> tuple[Any, Any]:
        decoder = Decoder(model, config, seed=SEED, batch_size=batch_size)
        done = [one.trajectory for one in decoder.in_order(requests)]
        return (
            [t.response_ids_N.tolist() for t in done],
            [t.step_N.tolist() for t in done],
        )

    def theirs() -> tuple[Any, Any]:
        ids_BS = torch.cat([prompt_BP, masks_BN], dim=1)
        if case["family"] == "llada":
            length = case["block_length"]
            done = usual.llada(model, ids_BS, None, num_slots=num_slots, block_length=length)
        else:
            done = usual.dream(
                model, ids_BS, None, num_slots=num_slots,
                temperature=case.get("temperature", 0.0), top_p=case.get("top_p"),
                generator=torch.Generator().manual_seed(SEED),
            )  # fmt: skip
        return done.response_ids_BN.tolist(), done.step_BN.tolist()

    return {"ours": ours, "usual": theirs}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    cases, claims = {}, []
    for name, case in CASES.items():
        sizes = {**SMALL_BODY, "vocab_size": case.get("vocab_size", SMALL_BODY["vocab_size"])}
        if args.tiny:
            sizes |= {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 512}
        model = build_model(case["family"], **sizes)
        calls = make_calls(
            model, case, batch_size=2 if args.tiny else 8, num_slots=4 if args.tiny else 12
        )
        assert calls["ours"]() == calls["usual"](), f"{name}: tokens or steps differ"
        times = paired(calls, rounds=args.rounds)
        cases[name] = {"seconds": times}
        claims.append(claim(f"{name}: a run, time", ratio(times, "usual", "ours"), bar=1.0))
    return {"cases": cases, "claims": claims}


if __name__ == "__main__":
    run_benchmark("official_schedules", measure, rounds=5)
