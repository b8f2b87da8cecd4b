"""The ranking term: one tensor operation over the batch against Python loops, forward + backward.

    python benchmarks/ranking.py              # about half a minute

Ours is the product's term with all it does: it finds its rows, masks pairs and counts its metrics.
Opponents: a loop over the responses (the usual way, the bar is against it), and a loop over the
pairs as the formula is written.

Legend: B batch, R rows, W window.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from common import SEED, Call, assert_close, claim, paired, ratio, run_benchmark
from tabom.objectives.batch import Context
from tabom.objectives.rows import Rows
from tabom.objectives.terms import Ranking
from usual import ranking_loop, ranking_pairs

MARGIN = 0.2
BAR_AT = 8  # responses


def make_calls(*, batch_size: int, window: int) -> dict[str, Call]:
    """Three ways to the same loss and entropy gradient; entropies are uniform in [0, 3) nats."""
    generator = torch.Generator().manual_seed(SEED)
    entropy_R = 3 * torch.rand(batch_size * window, generator=generator)
    entropy_R.requires_grad_()
    window_BW = torch.rand(batch_size, window, generator=generator).argsort(1)
    window_BW = window_BW + window * torch.arange(batch_size).unsqueeze(1)
    none_R = torch.zeros(0, dtype=torch.int64)
    context = Context(
        input_ids_BN=window_BW,
        row_batch_R=none_R,
        row_slot_R=none_R,
        label_R=none_R,
        ce_weight_R=torch.zeros(0),
        window_BW=window_BW,
    )
    term = Ranking(margin=MARGIN)

    def ours() -> Tensor:
        return term.value(Rows(ce_R=entropy_R, entropy_R=entropy_R), context)[0] / batch_size

    def response_loop() -> Tensor:
        return ranking_loop([entropy_R[row_W] for row_W in window_BW], margin=MARGIN)

    def pair_loop() -> Tensor:
        return ranking_pairs([entropy_R[row_W] for row_W in window_BW], margin=MARGIN)

    def with_gradient(loss: Any) -> Call:
        def call() -> dict[str, Tensor]:
            entropy_R.grad = None
            value = loss()
            value.backward()
            assert entropy_R.grad is not None
            return {"loss": value.detach(), "gradient": entropy_R.grad}

        return call

    return {
        "ours": with_gradient(ours),
        "loop over responses": with_gradient(response_loop),
        "loop over pairs": with_gradient(pair_loop),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    cases, claims = {}, []
    for batch_size in (4, BAR_AT) if args.tiny else (4, BAR_AT, 64):
        calls = make_calls(batch_size=batch_size, window=8 if args.tiny else 32)
        expected = calls["ours"]()
        differences = {
            name: assert_close(calls[name](), expected, atol=1e-6)
            for name in calls
            if name != "ours"
        }
        fast = {name: calls[name] for name in ("ours", "loop over responses")}
        times = paired(fast, rounds=args.rounds, repeat=2 if args.tiny else 100)
        slow = {name: calls[name] for name in ("ours", "loop over pairs")}
        slow_times = paired(slow, rounds=args.rounds, repeat=1 if batch_size == 64 else 4)
        cases[f"B={batch_size}"] = {
            "differences": differences,
            "seconds": {**times, "loop over pairs": slow_times["loop over pairs"]},
            "speed-up over the loop over pairs": ratio(slow_times, "loop over pairs", "ours"),
        }
        if batch_size == BAR_AT:
            words = f"B={batch_size}: tensor form against the loop over responses, time"
            claims.append(claim(words, ratio(times, "loop over responses", "ours"), bar=3))
    return {"cases": cases, "claims": claims}


if __name__ == "__main__":
    run_benchmark("ranking", measure, rounds=5)
