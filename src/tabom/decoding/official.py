"""The published decoding functions of Dream and LLaDA, step for step and draw for draw.

For comparisons with published numbers. Our own loop differs from them on purpose: it gives the
mask token no probability, scores in float32 (float64 sums) instead of the dtype of the logits,
breaks ties by the lowest slot instead of `topk`'s order, sends only masked slots through the head,
makes no call that reveals nothing, drops finished rows, and keys every draw, so that a result
does not depend on the batch. Here instead, as published:

- Dream reveals `int(mean number of masks in the batch * (1 - s / t))` slots of every row in a call:
  with steps == max_new_tokens none in the first and two in the last. A row with fewer masks than
  that has slots (even of its prompt) masked again.
- LLaDA spreads the masks of a block evenly over its calls, the remainder over the first ones.
- Every call is made for every row, and draws come from one stream for all batches: above
  temperature 0 a result depends on the batch and on what was decoded before.

Legend: B batch, S prompt + response, N response slots, M masked positions, R rows, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.core.errors import ConfigError
from tabom.decoding.canvas import Canvas, require_finite
from tabom.decoding.config import OFFICIAL_POLICIES, OPTIONS_OF, DecodingConfig
from tabom.decoding.softmax import LOWEST, distribution_
from tabom.models.contract import MaskedDiffusionModel

ONLY = {
    "dream": ("eps", "alg_temp", "top_p", "top_k"),
    "llada": ("block_length", "cfg_scale", "logits_eos_inf", "confidence_eos_eot_inf"),
}


def official_steps(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    config: DecodingConfig,
    *,
    generator: torch.Generator,
    record_field: bool,
) -> Iterator[Tensor]:
    """Make the model calls of the family's published function, writing to `canvas`.

    generator: seeded like the published function's global one, it gives the same draws.
    Yields: after each call, the entropies float32 `[B, N]` of all masked slots (NaN elsewhere; of
        the revealed ones alone unless record_field).
    Raises: `ConfigError` as `check_official`.
    """
    check_official(model, config)
    steps = _dream_steps if model.family.official_decoding == "dream" else _llada_steps
    return steps(model, canvas, config, generator, record_field)


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
    for other, names in ONLY.items():
        for name in names:
            neutral = OPTIONS_OF[name][1] if name in OPTIONS_OF else None
            if other != family and getattr(config, name) != neutral:
                raise ConfigError(
                    f"decoding {name} is no option of the official {family} function; leave it out"
                )


def _dream_steps(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    config: DecodingConfig,
    generator: torch.Generator,
    record_field: bool,
) -> Iterator[Tensor]:
    ids_BS, mask_id = canvas.ids_BS, model.ids.mask
    steps = config.steps or config.max_new_tokens
    time = torch.linspace(1, config.eps or 1e-3, steps + 1, device=ids_BS.device)
    for step in range(steps):
        masked_BS = ids_BS == mask_id
        logits_BSV = _logits(model, ids_BS, canvas.attention_mask_BS, config)
        logits_MV = logits_BSV[masked_BS]
        share = 1 - time[step + 1] / time[step] if step < steps - 1 else 1
        before_BS = ids_BS.clone()
        if config.policy == "origin":
            token_M = torch.full_like(ids_BS[masked_BS], mask_id)
            uniform_M = torch.rand(token_M.shape, device=ids_BS.device, generator=generator)
            picked_M = uniform_M < share
            token_M[picked_M] = _sample(logits_MV[picked_M], config, generator)[1]
            ids_BS[masked_BS] = token_M
        else:
            score_M, token_M = _sample(logits_MV, config, generator)
            num_masks = masked_BS.sum() / masked_BS.shape[0]
            count = int(num_masks * share)
            if count > 0:
                score_BS = torch.full_like(ids_BS, -torch.inf, dtype=logits_BSV.dtype)
                score_BS[masked_BS] = score_M
                if config.alg_temp:
                    weight_BS = (score_BS / config.alg_temp).softmax(dim=-1)
                    chosen = torch.multinomial(weight_BS, count, generator=generator)
                else:
                    chosen = torch.topk(score_BS, count).indices
                token_BS = torch.full_like(ids_BS, mask_id)
                token_BS[masked_BS] = token_M
                ids_BS.scatter_(1, chosen, token_BS.gather(1, chosen))
        yield _record(model, canvas, before_BS, logits_BSV, step=step, every_slot=record_field)


def _sample(
    logits_RV: Tensor, config: DecodingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Dream's score and token of each row, in the dtype of the logits."""
    lowest = torch.finfo(logits_RV.dtype).min
    if config.temperature > 0:
        logits_RV = logits_RV / config.temperature
    if config.top_p is not None and config.top_p < 1:
        sorted_RV, order_RV = logits_RV.sort(descending=True)
        drop_RV = sorted_RV.softmax(dim=-1).cumsum(dim=-1) > config.top_p
        drop_RV[..., 1:] = drop_RV[..., :-1].clone()
        drop_RV[..., 0] = False
        dropped_RV = torch.zeros_like(drop_RV).scatter_(-1, order_RV, drop_RV)
        logits_RV = logits_RV.masked_fill(dropped_RV, lowest)
    if config.top_k is not None:
        top_k = min(config.top_k, logits_RV.shape[-1])
        kth_R1 = logits_RV.topk(top_k).values[..., -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < kth_R1, lowest)
    probability_RV = logits_RV.softmax(dim=-1)
    if config.temperature > 0 and len(probability_RV):
        total_R1 = probability_RV.sum(dim=-1, keepdim=True)
        token_R = torch.multinomial(
            probability_RV / total_R1, 1, replacement=True, generator=generator
        ).squeeze(1)
        score_R = probability_RV.gather(-1, token_R[:, None]).squeeze(-1)
    else:
        score_R, token_R = probability_RV.max(dim=-1)
    if config.policy == "topk_margin":
        best_RV = probability_RV.sort(dim=-1, descending=True).values
        score_R = best_RV[:, 0] - best_RV[:, 1]
    elif config.policy == "entropy":
        score_R = (probability_RV * (probability_RV + 1e-10).log()).sum(dim=-1)
    return score_R, token_R


def _llada_steps(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    config: DecodingConfig,
    generator: torch.Generator,
    record_field: bool,
) -> Iterator[Tensor]:
    ids_BS, mask_id = canvas.ids_BS, model.ids.mask
    num_slots, num_prompt = config.max_new_tokens, ids_BS.shape[1] - config.max_new_tokens
    length, steps = config.block_length or num_slots, config.steps or num_slots
    num_blocks = num_slots // length
    if steps % num_blocks:
        raise ConfigError(
            f"decoding steps {steps} is no multiple of the {num_blocks} blocks that the official "
            f"llada function decodes; take a multiple, or another block_length"
        )
    per_block = steps // num_blocks
    eos, ends = model.ids.filler, [i for i in model.ids.eos if i != model.ids.filler]
    given_BS = ids_BS != mask_id
    for step in range(steps):
        block, call = divmod(step, per_block)
        end = num_prompt + (block + 1) * length
        if call == 0:
            block_BL = ids_BS[:, end - length : end]
            masks_B = (block_BL == mask_id).sum(dim=1)
        quota_B = masks_B // per_block + (call < masks_B % per_block)
        masked_BS = ids_BS == mask_id
        logits_BSV = _guided(model, canvas, config, given_BS)
        if config.logits_eos_inf:
            logits_BSV[..., eos] = -torch.inf
        noisy_BSV = _with_noise(logits_BSV, config.temperature, generator)
        token_BS = noisy_BSV.argmax(dim=-1)
        plain_BSV = logits_BSV
        if config.confidence_eos_eot_inf:
            plain_BSV = logits_BSV.clone()
            # At temperature 0 the noisy logits are the logits: EOS leaves the softmax as well.
            noisy_BSV[..., eos] = -torch.inf
            logits_BSV[..., ends] = -torch.inf
        if config.policy == "low_confidence":
            probability_BSV = logits_BSV.softmax(dim=-1)
            score_BS = probability_BSV.gather(-1, token_BS[..., None]).squeeze(-1)
        else:
            score_BS = torch.rand(token_BS.shape, device=ids_BS.device, generator=generator)
        score_BS[:, end:] = -torch.inf
        token_BS = torch.where(masked_BS, token_BS, ids_BS)
        score_BS = torch.where(masked_BS, score_BS, -torch.inf)
        before_BS = ids_BS.clone()
        for row, quota in enumerate(quota_B.tolist()):
            chosen = torch.topk(score_BS[row], quota).indices
            ids_BS[row, chosen] = token_BS[row, chosen]
        yield _record(model, canvas, before_BS, plain_BSV, step=step, every_slot=record_field)


def _guided(
    model: MaskedDiffusionModel, canvas: Canvas, config: DecodingConfig, given_BS: Tensor
) -> Tensor:
    """Logits, moved away from those without a prompt if there is guidance."""
    ids_BS, mask_BS = canvas.ids_BS, canvas.attention_mask_BS
    if config.cfg_scale <= 0:
        return _logits(model, ids_BS, mask_BS, config)
    blind_BS = ids_BS.masked_fill(given_BS, model.ids.mask)
    both_mask = None if mask_BS is None else torch.cat([mask_BS, mask_BS])
    both = _logits(model, torch.cat([ids_BS, blind_BS]), both_mask, config)
    logits_BSV, blind_BSV = both.chunk(2)
    return blind_BSV + (config.cfg_scale + 1) * (logits_BSV - blind_BSV)


def _with_noise(logits_BSV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Logits whose argmax is a draw; at temperature 0 the very same tensor."""
    if temperature == 0:
        return logits_BSV
    logits_BSV = logits_BSV.to(torch.float64)
    uniform_BSV = torch.rand(
        logits_BSV.shape, dtype=torch.float64, device=logits_BSV.device, generator=generator
    )
    return logits_BSV.exp() / (-torch.log(uniform_BSV)) ** temperature


def _logits(
    model: MaskedDiffusionModel,
    ids_BS: Tensor,
    attention_mask_BS: Tensor | None,
    config: DecodingConfig,
) -> Tensor:
    """Logits `[B, S, V]` of every position, those at p predicting the token at p."""
    hidden_BSD = model.hidden_states(ids_BS, attention_mask_BS)
    logits_BSV = linear(hidden_BSD, model.head_weight_VD)
    if model.family.alignment == "shift_right":
        logits_BSV = torch.cat([logits_BSV[:, :1], logits_BSV[:, :-1]], dim=1)
    if config.is_mask_suppressed:
        logits_BSV[..., model.ids.mask] = torch.finfo(logits_BSV.dtype).min
    return logits_BSV


def _record(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    before_BS: Tensor,
    logits_BSV: Tensor,
    *,
    step: int,
    every_slot: bool,
) -> Tensor:
    """Note what a call revealed (or masked again); a slot keeps its last reveal."""
    num_slots, mask_id = canvas.open_BN.shape[1], model.ids.mask
    response_BN, before_BN = canvas.ids_BS[:, -num_slots:], before_BS[:, -num_slots:]
    was_open_BN, canvas.open_BN = before_BN == mask_id, response_BN == mask_id
    revealed_BN, masked_again_BN = (
        was_open_BN & ~canvas.open_BN,
        ~was_open_BN & canvas.open_BN,
    )
    asked_BN = was_open_BN if every_slot else revealed_BN
    rows_RV = logits_BSV[:, -num_slots:][asked_BN].float()
    rows_RV[:, mask_id] = LOWEST
    rows = distribution_(rows_RV.clamp_(min=LOWEST))
    entropy_R = rows.entropy_nats()
    require_finite(entropy_R, model, step)
    entropy_BN = torch.full_like(canvas.entropy_BN, torch.nan)
    entropy_BN[asked_BN] = entropy_R
    token_R = torch.where(response_BN == mask_id, 0, response_BN)[asked_BN]
    confidence_BN = torch.full_like(canvas.confidence_BN, torch.nan)
    confidence_BN[asked_BN] = rows.probability(token_R)
    canvas.step_BN[revealed_BN] = step
    canvas.step_BN[masked_again_BN] = -1
    for noted_BN, value_BN in (
        (canvas.entropy_BN, entropy_BN),
        (canvas.confidence_BN, confidence_BN),
    ):
        noted_BN[revealed_BN] = value_BN[revealed_BN]
        noted_BN[masked_again_BN] = torch.nan
    canvas.num_forwards_B += 1
    return entropy_BN
