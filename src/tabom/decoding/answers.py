"""From hidden rows to a token and a score for each masked slot, in bounded memory.

At temperature 0 the vocabulary is walked in tiles that stay in a CPU's cache. Above it whole rows
of logits are needed, a few at a time. Neither depends on how many slots are asked.

Legend: B batch, N response slots, R gathered rows, V vocabulary, D hidden, M rows of a group,
K tokens of a row.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tabom.core.keys import uniform
from tabom.decoding.canvas import Canvas, require_finite
from tabom.decoding.config import DecodingConfig
from tabom.decoding.sampling import draw, is_truncated, kept_tokens
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.sizes import decoding_shape
from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST, HeadTiles, whole_logits

TOKEN_STREAM = 1  # keeps the draws of tokens apart from those of the random policy
EOS_FLOOR = 1e-3  # of the share decoded, so that its log is finite at the first step


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What each row brings along besides its hidden state, float64.

    token_R: keyed uniform numbers in [0, 1), needed where tokens are drawn. order_R: scores of the
    policies that do not look at the logits. eos_R: added to the logit of the end-of-text token.
    """

    token_R: Tensor | None = None
    order_R: Tensor | None = None
    eos_R: Tensor | None = None

    def of(self, rows: slice) -> "Draws":
        """Those of some rows."""
        return Draws(**{k: None if v is None else v[rows] for k, v in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class RowStats:
    """What one model call says about each row.

    token_R: int64, the token that the slot would get.
    score_R: float32 (float64 of the random policy); the greatest is revealed first.
    entropy_R: float32 nats, confidence_R: float32 probability of `token_R`; both of the untempered
        distribution without the mask token, whatever else bends the choice.
    """

    token_R: Tensor
    score_R: Tensor
    entropy_R: Tensor
    confidence_R: Tensor


@dataclass(frozen=True, kw_only=True)
class SlotStats:
    """The same on the slots `[B, N]` of a canvas: NaN, a score of -inf, where nothing was asked."""

    token_BN: Tensor
    score_BN: Tensor
    entropy_BN: Tensor
    confidence_BN: Tensor


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How a decoding turns hidden rows into answers.

    max_logit_bytes: of one float32 tensor of logits (above temperature 0, at least one row's).
    eos_id: the token that eos_penalty is about. seed: key of all draws.
    """

    config: DecodingConfig
    mask_id: int
    max_logit_bytes: int
    eos_id: int = 0
    seed: int = 0

    def on_slots(
        self,
        model: MaskedDiffusionModel,
        canvas: Canvas,
        asked: tuple[Tensor, Tensor],
        hidden_RD: Tensor,
    ) -> SlotStats:
        """What a call says about the slots that it was asked.

        asked: row and slot `[R]` of each hidden row.
        Raises: `ModelError` if the logits are not finite.
        """
        stats = self.of(hidden_RD, model.head_weight_VD, self.draws(canvas, *asked))
        require_finite(stats.entropy_R, model, canvas.num_forwards_B[asked[0]])

        def placed(value_R: Tensor, fill: float) -> Tensor:
            slots_BN = value_R.new_full(canvas.open_BN.shape, fill)
            slots_BN[asked] = value_R
            return slots_BN

        return SlotStats(
            token_BN=placed(stats.token_R, 0),
            score_BN=placed(stats.score_R, -torch.inf),
            entropy_BN=placed(stats.entropy_R, torch.nan),
            confidence_BN=placed(stats.confidence_R, torch.nan),
        )

    def draws(self, canvas: Canvas, batch_R: Tensor, slot_R: Tensor) -> Draws:
        """A draw depends on the request, its step and the slot, never on the batch."""
        config = self.config
        keys = (self.seed, canvas.key_B[batch_R], canvas.num_forwards_B[batch_R], slot_R)
        eos_R = order_R = None
        if config.eos_penalty:
            share_B = 1 - canvas.open_BN.double().mean(dim=1)
            eos_R = (config.eos_penalty * (share_B + EOS_FLOOR).log())[batch_R]
        if config.policy == "random":
            order_R = uniform(*keys)
        elif config.policy == "left_to_right":
            order_R = -slot_R.double()
        token_R = uniform(*keys, TOKEN_STREAM) if config.draws_tokens else None
        return Draws(token_R=token_R, order_R=order_R, eos_R=eos_R)

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

    @property
    def never(self) -> set[int]:
        """Tokens that are no answer."""
        masks = [self.mask_id] if self.config.is_mask_suppressed else []
        return {*self.config.suppress_ids, *masks}

    def greedy(self, tiles: HeadTiles, draws: Draws) -> RowStats:
        """Statistics at temperature 0. Source: TABOM section 4 (decoding by least entropy)."""
        config, mask_id, eos_id = self.config, self.mask_id, self.eos_id
        eos_R = draws.eos_R
        eos = () if eos_R is None else (eos_id,)
        # Tokens apart come in again one by one, with the logits that each distribution gives them.
        bent = (*config.suppress_ids, *config.begin_suppress_ids, *eos)
        apart = tuple(dict.fromkeys((mask_id, *bent)))
        rest = plain = choice = scored = RunningSoftmax.of_head(
            tiles, has_token=True, without=apart, has_second=config.policy == "margin"
        )
        unscored = self.never | set(config.begin_suppress_ids)
        for k, token in enumerate(apart):
            logit_R = bent_R = rest.left_out_RK[:, k]
            if eos_R is not None and token == eos_id:
                bent_R = (logit_R.double() + eos_R).to(logit_R.dtype)
            if token != mask_id:
                plain = plain.with_token(logit_R, token=token)
            if token not in self.never:
                choice = choice.with_token(bent_R, token=token)
            if token not in unscored:
                scored = scored.with_token(bent_R, token=token)
        logit_R = choice.greatest_R
        score_R = draws.order_R
        if score_R is None:
            score_R = self.ranked(self.score(scored, logit_R), choice.token_R)
        if eos:  # recorded as the model has it
            raw_R = rest.left_out_RK[:, apart.index(eos_id)]
            logit_R = torch.where(choice.token_R == eos_id, raw_R, logit_R)
        return self._stats(plain, choice.token_R, logit_R, score_R)

    def sampled(self, logits_RV: Tensor, draws: Draws) -> RowStats:
        """Statistics above temperature 0.

        logits_RV: float32; may be overwritten.
        Source: Dream's sampler: the score is of the tempered, truncated distribution.
        """
        mask_id, eos_id = self.mask_id, self.eos_id
        plain = choice = RunningSoftmax.of_logits(logits_RV, without=(mask_id,))
        raw_R = logits_RV[:, eos_id].clone()
        if draws.eos_R is not None:
            logits_RV[:, eos_id] = (raw_R.double() + draws.eos_R).to(raw_R.dtype)
        logits_RV[:, list(self.never)] = LOWEST
        if self.never != {mask_id} or draws.eos_R is not None:
            choice = RunningSoftmax.of_logits(logits_RV)
        token_R, score_R = choice.token_R, draws.order_R
        if not bool(torch.isfinite(plain.entropy_nats()).all()):
            # Nothing can be drawn from such rows; the caller says so.
            return self._stats(plain, token_R, plain.greatest_R, plain.greatest_R)
        if self.config.draws_tokens or score_R is None:
            token_R, own_score_R = self._chosen(logits_RV, token_R, draws)
            score_R = own_score_R if score_R is None else score_R
        logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1)
        logit_R = torch.where(token_R == eos_id, raw_R, logit_R)
        return self._stats(plain, token_R, logit_R, score_R)

    def score(self, softmax: RunningSoftmax, logit_R: Tensor) -> Tensor:
        """The score `[R]` of the policy; the greatest goes first. logit_R: of the answers."""
        if self.config.policy == "confidence":
            return softmax.probability(logit_R)
        if self.config.policy == "margin":
            return softmax.margin()
        # Some policies have their scores from draws, and what is given here is not looked at.
        return -softmax.entropy_nats()

    def ranked(self, score_R: Tensor, token_R: Tensor) -> Tensor:
        """Scores with the tokens that come last behind all others."""
        for token in self.config.begin_suppress_ids:
            score_R = score_R.masked_fill(token_R == token, LOWEST)
        return score_R

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
        begin = torch.tensor(config.begin_suppress_ids, device=logits_RV.device)
        tempered = RunningSoftmax.of_logits(
            logits_RV, temperature=temperature, has_second=has_second
        )
        if not is_truncated(logits_RV.shape[1], config):
            if uniform_R is not None:
                token_R = draw((logits_RV / temperature).clamp_(min=LOWEST), uniform_R)
            logit_R = logits_RV.gather(1, token_R[:, None]).squeeze(1) / temperature
            if len(begin):
                tempered = RunningSoftmax.of_logits(
                    logits_RV.index_fill(1, begin, LOWEST),
                    temperature=temperature,
                    has_second=has_second,
                )
            return token_R, self.ranked(self.score(tempered, logit_R.clamp_(min=LOWEST)), token_R)
        token_R, score_R = token_R.clone(), tempered.greatest_R.clone()
        for row_M, id_MK, value_MK in kept_tokens(logits_RV, tempered, config):
            if uniform_R is not None:
                column_M1 = draw(value_MK, uniform_R[row_M])[:, None]
                token_R[row_M] = id_MK.gather(1, column_M1).squeeze(1)
            else:
                column_M1 = (id_MK == token_R[row_M, None]).int().argmax(dim=1, keepdim=True)
            logit_M = value_MK.gather(1, column_M1).squeeze(1)
            if len(begin):
                value_MK = value_MK.masked_fill(torch.isin(id_MK, begin), LOWEST)
            kept = RunningSoftmax.of_logits(value_MK, has_second=has_second)
            score_R[row_M] = self.ranked(self.score(kept, logit_M), token_R[row_M])
        return token_R, score_R
