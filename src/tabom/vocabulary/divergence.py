"""Divergences between two models' predictions at the same rows, over the whole vocabulary.

Legend: R gathered rows, V vocabulary, D hidden, C rows of one chunk.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tabom.core.errors import ConfigError
from tabom.vocabulary.tiles import compute_dtype

# Float32 logits of both models in one chunk, its gradient included, stay below this.
_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class DivergenceKind:
    """Which divergence between the reference's q and the model's p, in nats.

    beta: 0 is KL(q || p), "forward"; 1 is KL(p || q), "reverse"; between them the generalised
        Jensen-Shannon divergence beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1-beta) p.
    temperature: both softmaxes are taken of logits over it.
    top_k: only the reference's k likeliest tokens, both distributions normalised over them; 0: all.
    clip, clip_what: an upper bound in nats, on each vocabulary "entry" of the sum (d-OPSD's code;
        then the minimum is no longer q = p) or on a "token"'s whole divergence. None: no bound.
    """

    beta: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    clip: float | None = None
    clip_what: Literal["entry", "token"] = "token"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"kl beta must be in [0, 1], got {self.beta}")
        if not self.temperature > 0:
            raise ConfigError(f"kl temperature must be above 0, got {self.temperature}")
        if self.top_k < 0 or (self.clip is not None and not self.clip > 0):
            raise ConfigError(
                f"kl top_k must be at least 0 and clip above 0, got {self.top_k} and {self.clip}"
            )

    def of_logits(self, logits_CV: Tensor, reference_CV: Tensor) -> Tensor:
        """The divergence `[C]` of rows of logits."""
        if self.top_k and self.top_k < reference_CV.shape[-1]:
            reference_CV, kept = reference_CV.topk(self.top_k, dim=-1)
            logits_CV = logits_CV.gather(-1, kept)
        log_p = (logits_CV / self.temperature).log_softmax(-1)
        log_q = (reference_CV / self.temperature).log_softmax(-1)
        if self.beta in (0.0, 1.0):
            terms = _kl_terms(log_q, log_p) if self.beta == 0 else _kl_terms(log_p, log_q)
        else:
            weight = torch.tensor([self.beta, 1 - self.beta], dtype=log_p.dtype).log().tolist()
            log_m = torch.logaddexp(log_q + weight[0], log_p + weight[1])
            terms = self.beta * _kl_terms(log_q, log_m) + (1 - self.beta) * _kl_terms(log_p, log_m)
        if self.clip is not None and self.clip_what == "entry":
            terms = terms.clamp(max=self.clip)
        value_C = terms.sum(-1)
        is_clipped = self.clip is not None and self.clip_what == "token"
        return value_C.clamp(max=self.clip) if is_clipped else value_C


def linear_divergence(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    reference_RD: Tensor,
    reference_weight_VD: Tensor,
    *,
    kind: DivergenceKind,
) -> Tensor:
    """The divergence of each row `[R]`, with gradient to `hidden_RD` and `weight_VD` alone.

    Rows go through both heads a chunk at a time and again in the backward pass, so that logits of
    all rows never stand in memory.
    Returns: float32 (float64 for float64 hidden states), also under autocast.
    """
    dtype = compute_dtype(hidden_RD)
    row_bytes = 6 * weight_VD.shape[0] * dtype.itemsize
    chunk = max(1, _CHUNK_BYTES // row_bytes)

    def of_chunk(hidden_CD: Tensor, reference_CD: Tensor, head_VD: Tensor) -> Tensor:
        with torch.no_grad():
            reference_CV = reference_CD.to(dtype) @ reference_weight_VD.to(dtype).t()
        return kind.of_logits(hidden_CD.to(dtype) @ head_VD.to(dtype).t(), reference_CV)

    with torch.autocast(hidden_RD.device.type, enabled=False):
        chunks = zip(hidden_RD.split(chunk), reference_RD.split(chunk), strict=True)
        values = [
            checkpoint(of_chunk, *rows, weight_VD, use_reentrant=False, preserve_rng_state=False)
            for rows in chunks
        ]
        return torch.cat(values) if values else hidden_RD.sum(-1).to(dtype)


def _kl_terms(log_a: Tensor, log_b: Tensor) -> Tensor:
    """a (log a - log b) of each entry; an entry without probability adds nothing."""
    a = log_a.exp()
    return torch.where(a > 0, a * (log_a - log_b), 0.0)
