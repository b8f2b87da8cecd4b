"""The published decoding functions of Dream, LLaDA and RND1, step for step and draw for draw.

Those of LLaDA2 and SDAR, which go block by block, are in `tabom.decoding.official_blocks`.

For comparisons with published numbers. Our own loop differs from them on purpose: it gives the
mask token no probability, scores in float32 (float64 sums) instead of the dtype of the logits,
breaks ties by the lowest slot instead of `topk`'s order, sends only masked slots through the head,
makes no call that reveals nothing, drops finished rows, and keys every draw, so that a result
does not depend on the batch. Here instead, as published:

- Dream reveals `int(mean number of masks in the batch * (1 - s / t))` slots of every row in a call:
  with steps == max_new_tokens none in the first and two in the last. A row with fewer masks than
  that has slots (even of its prompt) masked again.
- LLaDA spreads the masks of a block evenly over its calls, the remainder over the first ones.
- RND1 decodes all slots but the last, which is a pad, and reveals in a call what the entropies of
  that call say; the count comes from the schedule, so that some calls reveal nothing.
- Every call is made for every row, and draws come from one stream for all batches: above
  temperature 0 a result depends on the batch and on what was decoded before.

Legend: B batch, S prompt + response, N response slots, M masked positions, R rows, V vocabulary,
L slots of one block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.core.errors import ConfigError
from tabom.decoding.canvas import Canvas
from tabom.decoding.config import OFFICIAL_OPTIONS, OFFICIAL_POLICIES, DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.decoding.official_blocks import OfficialBlocks, plain_statistics
from tabom.models.contract import MaskedDiffusionModel


def check_official(model: MaskedDiffusionModel, config: DecodingConfig) -> None:
    """Raises `ConfigError` if the family has no published function or it has no such option."""
    family = model.family.official_decoding
    if family is None:
        known = ", ".join(sorted(OFFICIAL_POLICIES))
        raise ConfigError(
            f"decoding schedule 'official': family {model.family.name} has no published decoding "
            f"function here (there are those of {known}); take schedule fixed"
        )
    if config.policy not in OFFICIAL_POLICIES[family]:
        raise ConfigError(
            f"decoding policy {config.policy!r} is not one of the official {family} function: "
            f"{', '.join(OFFICIAL_POLICIES[family])}"
        )
    for name, families in OFFICIAL_OPTIONS.items():
        if family not in families and config.is_given(name):
            raise ConfigError(
                f"decoding {name} is no option of the official {family} function; leave it out"
            )
    if family == "llada":
        num_slots = config.max_new_tokens
        length = config.block_length or num_slots
        if num_slots % length:
            raise ConfigError(
                f"decoding block_length {length} does not divide max_new_tokens {num_slots}, which "
                "the official llada function needs; take a divisor, or null for one block"
            )
        if (config.steps or num_slots) % (num_slots // length):
            raise ConfigError(
                f"decoding steps {config.steps} is no multiple of the {num_slots // length} blocks "
                "that the official llada function decodes; take a multiple, or another block_length"
            )
    if family == "llada2":
        _check_loop(config)
    if family == "sdar" and config.policy != "low_confidence_dynamic" and config.threshold:
        raise ConfigError(
            f"decoding threshold is for policy low_confidence_dynamic, not {config.policy}; leave "
            "one of them out"
        )
    if family == "rnd1" and (config.temperature > 0) != config.greedy_tokens:
        raise ConfigError(
            "decoding: draws of the official rnd1 function are not reproduced; leave temperature "
            "out, or set greedy_tokens with it (it then shapes the entropies alone)"
        )
    if family == "rnd1" and config.max_new_tokens < 2:
        raise ConfigError("decoding max_new_tokens: the official rnd1 function keeps the last slot")


def _check_loop(config: DecodingConfig) -> None:
    if config.official_loop == "llada2.1" and config.suppress_mask is False:
        raise ConfigError(
            "decoding suppress_mask false: the loop llada2.1 would not end where the model answers "
            "with the mask token; leave it out"
        )
    if config.official_loop is None:
        raise ConfigError(
            "decoding official_loop: LLaDA2.0 and 2.1 share config and weights, and not their "
            "published decoding; say llada2.0 or llada2.1"
        )
    other = {
        "llada2.0": ("num_to_transfer", "editing_threshold", "max_post_steps"),
        "llada2.1": ("steps", "minimal_topk"),
    }[config.official_loop]
    for name in other:
        if config.is_given(name):
            raise ConfigError(
                f"decoding {name} does nothing in the loop {config.official_loop}; leave it out"
            )


@dataclass(frozen=True)
class OfficialDecoding:
    """The published function of the model's family.

    generator: seeded like the published function's global one, it gives the same draws.
    every_slot: record the entropies of all masked slots, not of the revealed alone.
    """

    model: MaskedDiffusionModel
    config: DecodingConfig
    counts: DecodeCounts
    generator: torch.Generator
    every_slot: bool

    def steps(self, canvas: Canvas) -> Iterator[Tensor]:
        """Make the calls for one batch; yields entropies, float32 `[B, N]`, NaN elsewhere.

        canvas: written in place.
        """
        if (name := self.model.family.official_decoding) in ("llada2", "sdar"):
            return OfficialBlocks(self.model, self.config, self.counts, self.every_slot).steps(
                canvas
            )
        loops = {"dream": self._dream, "llada": self._llada, "rnd1": self._rnd1}
        return loops[str(name)](canvas)

    def _dream(self, canvas: Canvas) -> Iterator[Tensor]:
        config, ids_BS, mask_id = self.config, canvas.ids_BS, self.model.ids.mask
        steps = config.steps or config.max_new_tokens
        time = torch.linspace(1, config.eps or 1e-3, steps + 1, device=ids_BS.device)
        for step in range(steps):
            masked_BS = ids_BS == mask_id
            logits_BSV = self._logits(ids_BS, canvas.attention_mask_BS)
            logits_MV = logits_BSV[masked_BS]
            # In the last call the share is one, whatever the schedule's end says.
            share = 1 - time[step + 1] / time[step] if step < steps - 1 else 1
            before_BS = ids_BS.clone()
            if config.policy == "origin":
                token_M = torch.full_like(ids_BS[masked_BS], mask_id)
                picked_M = self._random(token_M) < share
                token_M[picked_M] = self._sample(logits_MV[picked_M])[1]
                ids_BS[masked_BS] = token_M
            else:
                score_M, token_M = self._sample(logits_MV)
                # One count for all rows, from the mean of their masks, as published.
                count = int(masked_BS.sum() / masked_BS.shape[0] * share)
                if count > 0:
                    # Where a row has too few masks, slots that are not masked are chosen as well
                    # and get the mask token again, as in the published function.
                    score_BS = torch.full_like(ids_BS, -torch.inf, dtype=logits_BSV.dtype)
                    score_BS[masked_BS] = score_M
                    if config.alg_temp:
                        weight_BS = (score_BS / config.alg_temp).softmax(dim=-1)
                        chosen = torch.multinomial(weight_BS, count, generator=self.generator)
                    else:
                        chosen = torch.topk(score_BS, count).indices
                    token_BS = torch.full_like(ids_BS, mask_id)
                    token_BS[masked_BS] = token_M
                    ids_BS.scatter_(1, chosen, token_BS.gather(1, chosen))
            yield self._record(canvas, before_BS, logits_BSV)

    def _sample(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """Dream's score and token of each row, in the dtype of the logits."""
        config, lowest = self.config, torch.finfo(logits_RV.dtype).min
        if config.temperature > 0:
            logits_RV = logits_RV / config.temperature
        if config.top_p is not None and config.top_p < 1:
            sorted_RV, order_RV = logits_RV.sort(descending=True)
            drop_RV = sorted_RV.softmax(dim=-1).cumsum(dim=-1) > config.top_p
            # Shifted by one, so that the token which crosses the bound stays in.
            drop_RV[..., 1:] = drop_RV[..., :-1].clone()
            drop_RV[..., 0] = False
            dropped_RV = torch.zeros_like(drop_RV).scatter_(-1, order_RV, drop_RV)
            logits_RV = logits_RV.masked_fill(dropped_RV, lowest)
        if config.top_k is not None:
            kth_R1 = logits_RV.topk(min(config.top_k, logits_RV.shape[-1])).values[..., -1:]
            logits_RV = logits_RV.masked_fill(logits_RV < kth_R1, lowest)
        probability_RV = logits_RV.softmax(dim=-1)
        if config.temperature > 0 and len(probability_RV):
            total_R1 = probability_RV.sum(dim=-1, keepdim=True)
            token_R = torch.multinomial(
                probability_RV / total_R1, 1, replacement=True, generator=self.generator
            ).squeeze(1)
            score_R = probability_RV.gather(-1, token_R[:, None]).squeeze(-1)
        else:
            score_R, token_R = probability_RV.max(dim=-1)
        if config.policy == "topk_margin":
            best_RV = probability_RV.sort(dim=-1, descending=True).values
            score_R = best_RV[:, 0] - best_RV[:, 1]
        elif config.policy == "entropy":
            score_R = (probability_RV + 1e-10).log_().mul_(probability_RV).sum(dim=-1)
        return score_R, token_R

    def _llada(self, canvas: Canvas) -> Iterator[Tensor]:
        config, ids_BS, mask_id = self.config, canvas.ids_BS, self.model.ids.mask
        num_slots, num_prompt = config.max_new_tokens, ids_BS.shape[1] - config.max_new_tokens
        length, steps = config.block_length or num_slots, config.steps or num_slots
        per_block = steps // (num_slots // length)
        eos = self.model.ids.filler
        ends = [i for i in self.model.ids.eos if i != eos]
        given_BS = ids_BS != mask_id
        for step in range(steps):
            block, call = divmod(step, per_block)
            end = num_prompt + (block + 1) * length
            if call == 0:
                masks_B = (ids_BS[:, end - length : end] == mask_id).sum(dim=1)
            quota_B = masks_B // per_block + (call < masks_B % per_block)
            masked_BS = ids_BS == mask_id
            logits_BSV = self._guided(canvas, given_BS)
            if config.logits_eos_inf:
                logits_BSV[..., eos] = -torch.inf
            # Published for every position; later blocks wait, and what is revealed stays.
            asked_BS = masked_BS.clone()
            asked_BS[:, end:] = False
            logits_RV = logits_BSV[asked_BS]
            noisy_RV = self._with_noise(logits_RV, asked_BS)
            token_R = noisy_RV.argmax(dim=-1)
            if config.confidence_eos_eot_inf:
                # At temperature 0 the noisy logits are the logits: EOS leaves the softmax as well.
                noisy_RV[..., eos] = -torch.inf
                logits_RV[..., ends] = -torch.inf
            score_BS = torch.full_like(ids_BS, -torch.inf, dtype=logits_RV.dtype)
            if config.policy == "low_confidence":
                probability_RV = logits_RV.softmax(dim=-1)
                score_BS[asked_BS] = probability_RV.gather(-1, token_R[:, None]).squeeze(-1)
            else:
                score_BS = self._random(ids_BS).masked_fill(~asked_BS, -torch.inf)
            token_BS = ids_BS.masked_scatter(asked_BS, token_R)
            before_BS = ids_BS.clone()
            for row, quota in enumerate(quota_B.tolist()):
                chosen = torch.topk(score_BS[row], quota).indices
                ids_BS[row, chosen] = token_BS[row, chosen]
            yield self._record(canvas, before_BS, logits_BSV)

    def _rnd1(self, canvas: Canvas) -> Iterator[Tensor]:
        """RND1's: reveal the surest slots of each call, as the schedule or the bound counts."""
        config, mask_id = self.config, self.model.ids.mask
        # The last slot is a pad that stays: seen by all, never decoded.
        canvas.response_BN[:, -1], canvas.open_BN[:, -1] = self.model.ids.pad, False
        num_calls, total = config.steps or config.max_new_tokens, config.max_new_tokens - 1
        for left in range(num_calls - 1, -1, -1):
            ids_BN = canvas.response_BN
            masked_BN = ids_BN == mask_id
            if not bool(masked_BN.any()):
                return
            logits_BSV = self._logits(canvas.ids_BS, canvas.attention_mask_BS)
            logits_BNV = logits_BSV[:, -canvas.num_slots :]
            log_p_BNV = (logits_BNV / (config.temperature or 1.0)).log_softmax(dim=-1)
            entropy_BN = -(log_p_BNV.exp() * log_p_BNV).sum(dim=-1)
            # By the bound they are taken by confidence, else by entropy.
            unsure_BN = entropy_BN if config.eb_gamma is None else -log_p_BNV.amax(dim=-1)
            order_BN = unsure_BN.masked_fill(~masked_BN, torch.inf).argsort(dim=-1, stable=True)
            num_masked_B1 = masked_BN.sum(dim=-1, keepdim=True)
            if left == 0:
                count_B1 = num_masked_B1
            elif config.eb_gamma is None:
                count_B1 = num_masked_B1 - int(total * left / num_calls)
            else:
                sorted_BN = entropy_BN.gather(1, order_BN)
                excess_BN = sorted_BN.cumsum(dim=-1) - sorted_BN.cummax(dim=-1).values
                within_BN = (excess_BN <= config.eb_gamma).int().cumprod(dim=-1)
                count_B1 = within_BN.sum(dim=-1, keepdim=True)
            rank_N = torch.arange(canvas.num_slots, device=ids_BN.device)
            chosen_BN = torch.zeros_like(masked_BN).scatter_(1, order_BN, rank_N < count_B1)
            chosen_BN &= masked_BN
            before_BS = canvas.ids_BS.clone()
            ids_BN[chosen_BN] = logits_BNV[chosen_BN].argmax(dim=-1)
            yield self._record(canvas, before_BS, logits_BSV)

    def _guided(self, canvas: Canvas, given_BS: Tensor) -> Tensor:
        """Logits, moved away from those without a prompt if there is guidance."""
        ids_BS, mask_BS = canvas.ids_BS, canvas.attention_mask_BS
        scale = self.config.cfg_scale
        if scale <= 0:
            return self._logits(ids_BS, mask_BS)
        # The same canvas without its prompt; both go through the model in one call.
        blind_BS = ids_BS.masked_fill(given_BS, self.model.ids.mask)
        both_mask = None if mask_BS is None else torch.cat([mask_BS, mask_BS])
        logits_BSV, blind_BSV = self._logits(torch.cat([ids_BS, blind_BS]), both_mask).chunk(2)
        return blind_BSV + (scale + 1) * (logits_BSV - blind_BSV)

    def _with_noise(self, logits_RV: Tensor, asked_BS: Tensor) -> Tensor:
        """Logits whose argmax is a draw; at temperature 0 the very same tensor.

        asked_BS: bool, the positions of the rows. A number is drawn for every position.
        """
        temperature = self.config.temperature
        if temperature == 0:
            return logits_RV
        shape = (*asked_BS.shape, logits_RV.shape[-1])
        uniform_RV = self._random(logits_RV.new_empty(1).expand(shape), torch.float64)[asked_BS]
        return logits_RV.double().exp() / (-torch.log(uniform_RV)) ** temperature

    def _random(self, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A uniform number for each value of `like`."""
        return torch.rand(like.shape, dtype=dtype, device=like.device, generator=self.generator)

    def _logits(self, ids_BS: Tensor, attention_mask_BS: Tensor | None) -> Tensor:
        """Logits `[B, S, V]` of every position, those at p predicting the token at p."""
        num_tokens, num_keys = ids_BS.numel(), ids_BS.shape[1]
        self.counts.add_tokens(attention_mask_BS, num_tokens=num_tokens, num_keys=num_keys)
        self.counts.add_call(num_rows=num_tokens)
        hidden_BSD = self.model.hidden_states(ids_BS, attention_mask_BS)
        if self.model.family.alignment == "shift_right":
            # Published after the head; before it there is less to copy.
            hidden_BSD = torch.cat([hidden_BSD[:, :1], hidden_BSD[:, :-1]], dim=1)
        logits_BSV = linear(hidden_BSD, self.model.head_weight_VD)
        if self.config.is_mask_suppressed:
            logits_BSV[..., self.model.ids.mask] = torch.finfo(logits_BSV.dtype).min
        return logits_BSV

    def _record(self, canvas: Canvas, before_BS: Tensor, logits_BSV: Tensor) -> Tensor:
        """Note what a call revealed (or masked again); a slot keeps its last reveal."""
        response_BN, mask_id = canvas.response_BN, self.model.ids.mask
        was_open_BN = before_BS[:, -canvas.num_slots :] == mask_id
        canvas.open_BN = response_BN == mask_id
        revealed_BN, masked_again_BN = was_open_BN & ~canvas.open_BN, ~was_open_BN & canvas.open_BN
        asked_BN = was_open_BN if self.every_slot else revealed_BN
        rows_RV = logits_BSV[:, -canvas.num_slots :][asked_BN]
        entropy_BN, confidence_BN = plain_statistics(self.model, canvas, asked_BN, rows_RV)
        canvas.reveal(revealed_BN, entropy_BN, confidence_BN)
        canvas.step_BN[masked_again_BN] = -1
        for noted_BN in (canvas.entropy_BN, canvas.confidence_BN):
            noted_BN[masked_again_BN] = torch.nan
        canvas.num_forwards_B += 1
        return entropy_BN
