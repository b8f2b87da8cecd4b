"""From hidden rows to a token and a score for each masked slot, in bounded memory.

At temperature 0 the vocabulary is walked in tiles that stay in a CPU's cache. Above it whole rows
of logits are needed, a few at a time. Neither depends on how many slots are asked.

Legend: R gathered rows, V vocabulary, D hidden, M rows of a group, K tokens of a row.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tabom.decoding.config import DecodingConfig
from tabom.decoding.sampling import draw, is_truncated, kept_tokens
from tabom.vocabulary.sizes import decoding_shape
from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST, HeadTiles, whole_logits


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Keyed uniform numbers of each row, float64 in [0, 1).

    token_R: needed where tokens are drawn. order_R: needed by the random policy.
    """

    token_R: Tensor | None = None
    order_R: Tensor | None = None

    def of(self, rows: slice) -> "Draws":
        """Those of some rows."""
        return Draws(
            token_R=None if self.token_R is None else self.token_R[rows],
            order_R=None if self.order_R is None else self.order_R[rows],
        )


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


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How a decoding turns hidden rows into answers.

    max_logit_bytes: of one float32 tensor of logits (above temperature 0, at least one row's).
    """

    config: DecodingConfig
    mask_id: int
    max_logit_bytes: int

    def of(self, hidden_RD: Tensor, weight_VD: Tensor, draws: Draws) -> RowStats:
        """Token, score, entropy and confidence of each row, its logits made and dropped here."""
        is_whole = self.config.temperature > 0
        rows, width = decoding_shape(
            len(hidden_RD),
            len(weight_VD),
            self.max_logit_bytes,
            is_whole=is_whole,
            device_type=hidden_RD.device.type,
        )
        parts = []
        for start in range(0, len(hidden_RD), rows):
            chunk = slice(start, start + rows)
            if is_whole:
                logits_RV = whole_logits(hidden_RD[chunk], weight_VD).float()
                parts.append(self.sampled(logits_RV, draws.of(chunk)))
            else:
                tiles = HeadTiles(hidden_RD[chunk], weight_VD, width=width, may_round=True)
                parts.append(self.greedy(tiles, draws.of(chunk)))
        return RowStats(
            **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(RowStats)}
        )

    def greedy(self, tiles: HeadTiles, draws: Draws) -> RowStats:
        """Statistics at temperature 0. Source: TABOM section 4 (decoding by least entropy)."""
        plain = choice = RunningSoftmax.of_head(
            tiles, has_token=True, without=self.mask_id, has_second=self.config.policy == "margin"
        )
        if not self.config.is_mask_suppressed:
            choice = plain.with_token(plain.left_out_R, token=self.mask_id)
        score_R = draws.order_R
        if score_R is None:
            score_R = self.score(choice, choice.greatest_R)
        return self._stats(plain, choice.token_R, choice.greatest_R, score_R)

    def sampled(self, logits_RV: Tensor, draws: Draws) -> RowStats:
        """Statistics above temperature 0.

        logits_RV: float32; the mask token's may be overwritten.
        Source: Dream's sampler: the score is of the tempered, truncated distribution.
        """
        plain = choice = RunningSoftmax.of_logits(logits_RV, without=self.mask_id)
        if self.config.is_mask_suppressed:
            logits_RV[:, self.mask_id] = LOWEST
        else:
            choice = plain.with_token(plain.left_out_R, token=self.mask_id)
        token_R, score_R = choice.token_R, draws.order_R
        if not bool(torch.isfinite(plain.entropy_nats()).all()):
            # Nothing can be drawn from such rows; the caller says so.
            return self._stats(plain, token_R, plain.greatest_R, plain.greatest_R)
        if self.config.draws_tokens or score_R is None:
            token_R, own_score_R = self._chosen(logits_RV, token_R, draws)
            score_R = own_score_R if score_R is None else score_R
        logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1)
        return self._stats(plain, token_R, logit_R, score_R)

    def score(self, softmax: RunningSoftmax, logit_R: Tensor) -> Tensor:
        """The score `[R]` of the policy; the greatest goes first. logit_R: of the answers."""
        if self.config.policy == "confidence":
            return softmax.probability(logit_R)
        if self.config.policy == "margin":
            return softmax.margin()
        # The random policy has its scores from draws, and what is given here is not looked at.
        return -softmax.entropy_nats()

    def _stats(
        self, plain: RunningSoftmax, token_R: Tensor, logit_R: Tensor, score_R: Tensor
    ) -> RowStats:
        logit_R = logit_R.masked_fill(token_R == self.mask_id, LOWEST)
        return RowStats(
            token_R=token_R,
            score_R=score_R,
            entropy_R=plain.entropy_nats().float(),
            confidence_R=plain.probability(logit_R).float(),
        )

    def _chosen(self, logits_RV: Tensor, token_R: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The tokens drawn (else those given) and scores, from the tempered, truncated rows."""
        config, uniform_R = self.config, draws.token_R
        temperature, has_second = config.temperature, config.policy == "margin"
        tempered = RunningSoftmax.of_logits(
            logits_RV, temperature=temperature, has_second=has_second
        )
        if not is_truncated(logits_RV.shape[1], config):
            if uniform_R is not None:
                token_R = draw((logits_RV / temperature).clamp_(min=LOWEST), uniform_R)
            logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1) / temperature
            return token_R, self.score(tempered, logit_R.clamp_(min=LOWEST))
        token_R, score_R = token_R.clone(), tempered.greatest_R.clone()
        for row_M, id_MK, value_MK in kept_tokens(logits_RV, tempered, config):
            if uniform_R is not None:
                column_M1 = draw(value_MK, uniform_R[row_M])[:, None]
                token_R[row_M] = id_MK.gather(1, column_M1).squeeze(1)
            else:
                column_M1 = (id_MK == token_R[row_M, None]).int().argmax(dim=1, keepdim=True)
            kept = RunningSoftmax.of_logits(value_MK, has_second=has_second)
            score_R[row_M] = self.score(kept, value_MK.gather(1, column_M1).squeeze(1))
        return token_R, score_R
