"""The loss head against compiled plain autograd, and against the least that it could take.

    python benchmarks/head_floor.py           # about six minutes on one core, compilation included

Compiled: `torch.compile` of log_softmax, gather and sum on the same gathered rows. Floor: the two
matrix products alone (logits, and their gradient times the head), and the share of the first that
is made twice, since its logits found no room. The bar is 1.15 times less time than compiled, or
within a tenth of the floor.

Legend: R gathered rows, V vocabulary, D hidden.
"""

import argparse
import functools
from typing import Any

import torch
from torch import Tensor

import head
from common import Call, claim, paired, ratio, run_benchmark, say
from tabom.vocabulary.head import linear_ce_entropy

BUFFER = 192 * 2**20  # as `linear_ce_entropy` keeps


@functools.cache
def compiled() -> Any:
    """Cross-entropy and entropy of rows, as one would write them, compiled."""

    def rows(hidden_RD: Tensor, weight_VD: Tensor, label_R: Tensor) -> tuple[Tensor, Tensor]:
        log_p_RV = torch.log_softmax(hidden_RD @ weight_VD.t(), dim=-1)
        ce_R = -log_p_RV.gather(1, label_R.unsqueeze(1)).squeeze(1)
        return ce_R, -(log_p_RV.exp() * log_p_RV).sum(-1)

    return torch.compile(rows, dynamic=False)


def products(inputs: head.Inputs) -> Call:
    """The matrix products of a forward and a backward pass, and nothing else."""
    rows_RD, weight_VD = inputs.hidden_BSD.detach()[inputs.row_R], inputs.weight_VD
    logits_RV = torch.empty(len(rows_RD), len(weight_VD))
    gradient_RD = torch.empty_like(rows_RD)
    num_again = len(weight_VD) - min(len(weight_VD), BUFFER // (4 * len(rows_RD)))
    again_RT = torch.empty(len(rows_RD), num_again)

    def call() -> Tensor:
        torch.mm(rows_RD, weight_VD.t(), out=logits_RV)
        torch.mm(logits_RV, weight_VD, out=gradient_RD)
        torch.mm(rows_RD, weight_VD[:num_again].t(), out=again_RT)
        return gradient_RD

    return call


def measure(args: argparse.Namespace) -> dict[str, Any]:
    head.VARIANTS["compiled"] = functools.partial(
        head.rows_loss, rows=lambda *tensors: compiled()(*tensors)
    )
    assert head.VARIANTS["ours"].keywords["rows"] is linear_ce_entropy  # type: ignore[attr-defined]
    cases, claims = {}, []
    for name, sizes in head.CASES.items():
        inputs = head.make_inputs(**{**sizes, **(head.TINY if args.tiny else {})})
        calls = {variant: head.bind(variant, inputs) for variant in ("ours", "compiled")}
        expected = head.reference(inputs)
        differences = {
            variant: head.check(variant, call, expected) for variant, call in calls.items()
        }
        calls["floor"] = products(inputs)
        calls["floor"]()
        times = paired(calls, rounds=args.rounds)
        say(f"{name}: timed")
        cases[name] = {"differences_from_float64": differences, "seconds": times}
        claims += [
            claim(f"{name}: compiled over ours, time", ratio(times, "compiled", "ours"), bar=1.15),
            claim(
                f"{name}: ours over the products alone", ratio(times, "ours", "floor"), bar=1.1,
                unit="x the time", at_most=True,
            ),
        ]  # fmt: skip
    return {"cases": cases, "claims": claims}


if __name__ == "__main__":
    run_benchmark("head_floor", measure, rounds=5)
