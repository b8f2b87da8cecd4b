"""From hidden rows to a token and a score for each masked slot, in bounded memory.

At temperature 0 the vocabulary is walked in tiles that stay in a CPU's cache. Above it whole rows
of logits are needed, a few at a time. Neither depends on how many slots are asked.

Legend: R gathered rows, V vocabulary, D hidden, T columns of one vocabulary tile, M rows of a
group.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.decoding.config import DecodingConfig, Policy
from tabom.decoding.sampling import draw, is_truncated, kept_tokens
from tabom.decoding.softmax import LOWEST, Distribution, RunningSoftmax, distribution_

# Two float32 tensors of at most this size are alive at temperature 0, about six above it. On a
# CPU larger ones come fresh from the system for every operation: twice the time a row.
LOGIT_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}
WIDTH = {"cpu": 1024, "gpu": 16384}  # columns of a tile
CPU_ROWS = 512  # with them a tile is 2 MiB; more rows read the weights less often, but leave caches

Tile = tuple[int, Tensor, Tensor]  # first id, logits_RT, scratch_RT; both may be overwritten


@dataclass(frozen=True, kw_only=True)
class RowStats:
    """What one model call says about each row.

    token_R: int64, the token that the slot would get.
    score_R: float32 (float64 of the random policy); the greatest is revealed first.
    entropy_R: float32 nats, confidence_R: float32 probability of `token_R`; both of the untempered
        distribution without the mask token.
    """

    token_R: Tensor
    score_R: Tensor
    entropy_R: Tensor
    confidence_R: Tensor


def head_stats(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    *,
    config: DecodingConfig,
    mask_id: int,
    max_logit_bytes: int,
    token_uniform_R: Tensor | None = None,
    order_uniform_R: Tensor | None = None,
) -> RowStats:
    """Token, score, entropy and confidence of each row, its logits made and dropped on the way.

    max_logit_bytes: of one float32 tensor of logits (above temperature 0, at least one row's).
    token_uniform_R: float64 keyed draws, needed where tokens are drawn.
    order_uniform_R: float64 keyed draws, needed by the random policy.
    """
    rows, width = tile_shape(
        len(hidden_RD), weight_VD, max_logit_bytes=max_logit_bytes, is_whole=config.temperature > 0
    )
    parts = []
    for start in range(0, len(hidden_RD), rows):
        chunk = slice(start, start + rows)
        order_uniform_C = None if order_uniform_R is None else order_uniform_R[chunk]
        if config.temperature > 0:
            parts.append(
                sampled_stats(
                    linear(hidden_RD[chunk], weight_VD).float(),
                    config=config,
                    mask_id=mask_id,
                    token_uniform_R=None if token_uniform_R is None else token_uniform_R[chunk],
                    order_uniform_R=order_uniform_C,
                )
            )
            continue
        parts.append(
            greedy_stats(
                head_tiles(hidden_RD[chunk], weight_VD, width=width),
                num_rows=len(hidden_RD[chunk]),
                device=hidden_RD.device,
                config=config,
                mask_id=mask_id,
                order_uniform_R=order_uniform_C,
            )
        )
    return RowStats(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(RowStats)}
    )


def tile_shape(
    num_rows: int, weight_VD: Tensor, *, max_logit_bytes: int, is_whole: bool
) -> tuple[int, int]:
    """Rows and columns of a tensor of logits that fits; is_whole: all columns."""
    values, vocab_size = max(1, max_logit_bytes // 4), weight_VD.shape[0]
    if is_whole:
        return max(1, values // vocab_size), vocab_size
    if weight_VD.device.type == "cpu":
        width = min(WIDTH["cpu"], values, vocab_size)
        return max(1, min(values // width, CPU_ROWS)), width
    rows = max(1, min(num_rows, values // min(WIDTH["gpu"], values)))
    return rows, max(1, min(vocab_size, values // rows))  # few rows: a wider tile, fewer calls


def head_tiles(hidden_RD: Tensor, weight_VD: Tensor, *, width: int) -> Iterator[Tile]:
    """Logits of the vocabulary, `width` tokens at a time, in one buffer that is used again."""
    rows, size = len(hidden_RD), len(hidden_RD) * width
    buffers = [torch.empty(size, device=hidden_RD.device) for _ in range(2)]
    for start in range(0, len(weight_VD), width):
        weight_TD = weight_VD[start : start + width]
        logits_RT, scratch_RT = (b[: rows * len(weight_TD)].view(rows, -1) for b in buffers)
        if hidden_RD.dtype == weight_TD.dtype == torch.float32:
            torch.mm(hidden_RD, weight_TD.T, out=logits_RT)
        else:
            logits_RT.copy_(linear(hidden_RD, weight_TD))
        yield start, logits_RT, scratch_RT


def slices(logits_RV: Tensor, *, temperature: float = 1.0) -> Iterator[Tile]:
    """Tiles of logits that are there already, over the temperature; copies in one buffer."""
    rows, vocab_size = logits_RV.shape
    width = min(WIDTH["cpu" if logits_RV.device.type == "cpu" else "gpu"], vocab_size)
    buffers = [torch.empty(rows * width, device=logits_RV.device) for _ in range(2)]
    for start in range(0, vocab_size, width):
        part_RT = logits_RV[:, start : start + width]
        logits_RT, scratch_RT = (b[: part_RT.numel()].view(part_RT.shape) for b in buffers)
        if temperature == 1:
            logits_RT.copy_(part_RT)
        else:  # the clamp undoes LOWEST / T = -inf
            torch.div(part_RT, temperature, out=logits_RT).clamp_(min=LOWEST)
        yield start, logits_RT, scratch_RT


def running_softmax(
    tiles: Iterable[Tile],
    *,
    num_rows: int,
    device: torch.device,
    without: int | None = None,
    has_second: bool = False,
) -> tuple[RunningSoftmax, Tensor]:
    """The softmax of the tiles, one token left out; and float32 `[R]`, that token's logits."""
    softmax = RunningSoftmax(num_rows, device=device, has_second=has_second)
    left_out_R = torch.full((num_rows,), LOWEST, device=device)
    for first_id, logits_RT, scratch_RT in tiles:
        if without is not None and 0 <= without - first_id < logits_RT.shape[1]:
            column = without - first_id
            left_out_R = logits_RT[:, column].clone()
            logits_RT[:, column] = LOWEST
        softmax.add_(logits_RT, scratch_RT, first_id=first_id)
    return softmax, left_out_R


def greedy_stats(
    tiles: Iterable[Tile],
    *,
    num_rows: int,
    device: torch.device,
    config: DecodingConfig,
    mask_id: int,
    order_uniform_R: Tensor | None = None,
) -> RowStats:
    """Statistics at temperature 0. Source: TABOM section 4 (decoding by least entropy)."""
    plain, mask_logit_R = running_softmax(
        tiles,
        num_rows=num_rows,
        device=device,
        without=mask_id,
        has_second=config.policy == "margin",
    )
    choice = plain
    if not config.is_mask_suppressed:
        choice = plain.with_token(mask_logit_R, token=mask_id)
    entropy_R = plain.entropy_nats()
    if config.policy == "random":
        assert order_uniform_R is not None
        score_R = order_uniform_R
    else:
        score_R = policy_score(choice, choice.greatest_R, policy=config.policy)
    return RowStats(
        token_R=choice.token_R,
        score_R=score_R,
        entropy_R=entropy_R,
        confidence_R=plain.probability(
            choice.greatest_R.masked_fill(choice.token_R == mask_id, LOWEST)
        ),
    )


def sampled_stats(
    logits_RV: Tensor,
    *,
    config: DecodingConfig,
    mask_id: int,
    token_uniform_R: Tensor | None = None,
    order_uniform_R: Tensor | None = None,
) -> RowStats:
    """Statistics above temperature 0.

    logits_RV: float32; the mask token's may be overwritten.
    Source: Dream's sampler: the score is of the tempered, truncated distribution.
    """
    plain, mask_logit_R = running_softmax(
        slices(logits_RV), num_rows=len(logits_RV), device=logits_RV.device, without=mask_id
    )
    entropy_R = plain.entropy_nats()
    token_R = plain.token_R
    if config.is_mask_suppressed:
        logits_RV[:, mask_id] = LOWEST
    else:
        token_R = plain.with_token(mask_logit_R, token=mask_id).token_R
    if not bool(torch.isfinite(entropy_R).all()):  # nothing can be drawn; the caller says so
        return RowStats(
            token_R=token_R, score_R=entropy_R, entropy_R=entropy_R, confidence_R=entropy_R
        )
    score_R = order_uniform_R
    if config.draws_tokens or score_R is None:
        token_R, own_score_R = _choose(logits_RV, token_R, token_uniform_R, config)
        score_R = own_score_R if score_R is None else score_R
    logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1)
    return RowStats(
        token_R=token_R,
        score_R=score_R,
        entropy_R=entropy_R,
        confidence_R=plain.probability(logit_R.masked_fill(token_R == mask_id, LOWEST)),
    )


def _choose(
    logits_RV: Tensor, token_R: Tensor, uniform_R: Tensor | None, config: DecodingConfig
) -> tuple[Tensor, Tensor]:
    """The tokens drawn (else those given) and their scores, from the tempered, truncated rows."""
    temperature, top_p, top_k = config.temperature, config.top_p, config.top_k
    tempered, _ = running_softmax(
        slices(logits_RV, temperature=temperature),
        num_rows=len(logits_RV),
        device=logits_RV.device,
        has_second=config.policy == "margin",
    )
    if not is_truncated(logits_RV.shape[1], top_p=top_p, top_k=top_k):
        if uniform_R is not None:
            token_R = draw((logits_RV / temperature).clamp_(min=LOWEST), uniform_R)
        logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1) / temperature
        logit_R = logit_R.clamp_(min=LOWEST)
        return token_R, _score(tempered, logit_R, config)
    token_R, score_R = token_R.clone(), tempered.greatest_R.clone()
    for row_M, id_MK, value_MK in kept_tokens(
        logits_RV, tempered, temperature=temperature, top_p=top_p, top_k=top_k
    ):
        if uniform_R is not None:
            column_M = draw(value_MK, uniform_R[row_M])
            token_R[row_M] = id_MK.gather(1, column_M[:, None]).squeeze(1)
        else:
            column_M = (id_MK == token_R[row_M, None]).int().argmax(dim=1)
        score_R[row_M] = _score(distribution_(value_MK), column_M, config)
    return token_R, score_R


def _score(rows: Distribution | RunningSoftmax, token_R: Tensor, config: DecodingConfig) -> Tensor:
    """The policy's score; where the policy is random, nothing that means anything."""
    if config.policy == "random":
        return rows.rest_R.float()
    return policy_score(rows, token_R, policy=config.policy)


def policy_score(rows: Distribution | RunningSoftmax, token_R: Tensor, *, policy: Policy) -> Tensor:
    """The score `[R]` of an entropy, confidence or margin policy; the greatest goes first.

    token_R: as `rows.probability` takes it: a column, or a logit.
    """
    if policy == "entropy":
        return -rows.entropy_nats()
    if policy == "confidence":
        return rows.probability(token_R)
    if policy == "margin":
        return rows.margin()
    raise AssertionError(f"policy {policy!r} has no score from probabilities")
