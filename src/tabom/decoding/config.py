"""How a response is decoded. Part of the fingerprint of everything that decoding produced."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tabom.core.configs import Bound, Count, NonNegative, Settings, Share
from tabom.core.errors import ConfigError

OwnPolicy = Literal["entropy", "confidence", "margin", "random", "left_to_right"]
OfficialPolicy = Literal[
    "maskgit_plus", "topk_margin", "origin", "low_confidence", "low_confidence_dynamic",
    "low_confidence_static", "sequential",
]  # fmt: skip
Policy = Literal[OwnPolicy, OfficialPolicy]
Schedule = Literal["fixed", "threshold", "factor", "official"]
Approximate = Literal["prefix", "dual"]
Stop = Literal["full", "text"]
LLADA_SWITCHES = ("logits_eos_inf", "confidence_eos_eot_inf")
OFFICIAL_POLICIES = {
    "dream": ("entropy", "maskgit_plus", "topk_margin", "origin"),
    "llada": ("low_confidence", "random"),
    "llada2": ("low_confidence",),
    "rnd1": ("entropy",),
    "sdar": ("low_confidence_dynamic", "low_confidence_static", "sequential"),
}
# Options of the published functions, each with the families whose function has it.
OFFICIAL_OPTIONS: dict[str, tuple[str, ...]] = {
    "steps": ("dream", "llada", "llada2", "rnd1", "sdar"),
    "temperature": ("dream", "llada", "rnd1"),
    **dict.fromkeys(("eps", "alg_temp", "top_p", "top_k"), ("dream",)),
    **dict.fromkeys(("cfg_scale", *LLADA_SWITCHES), ("llada",)),
    "block_length": ("llada", "llada2", "sdar"),
    **dict.fromkeys(("threshold", "eos_early_stop"), ("llada2", "sdar")),
    **dict.fromkeys(
        ("official_loop", "minimal_topk", "num_to_transfer", "editing_threshold", "max_post_steps"),
        ("llada2",),
    ),
    **dict.fromkeys(("eb_gamma", "greedy_tokens"), ("rnd1",)),
}
# Options that only some schedules know, with those.
SCHEDULES_OF: dict[str, tuple[Schedule, ...]] = {
    **dict.fromkeys(OFFICIAL_OPTIONS, ("official",)),
    **dict.fromkeys(("temperature", "top_p", "top_k", "block_length"), get_args(Schedule)),
    "greedy_tokens": get_args(Schedule),
    "tokens_per_step": ("fixed",),
    "threshold": ("threshold", "official"),
    "blocks_ahead": ("threshold",),
    "min_per_step": ("threshold", "factor"),
    # How the choice among tokens is bent; no published function here knows any of it.
    **dict.fromkeys(
        ("eos_penalty", "suppress_ids", "begin_suppress_ids"), ("fixed", "threshold", "factor")
    ),
    "factor": ("factor",),
}


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Settings):
    """Settings of the decoding loop."""

    policy: Policy = "entropy"
    """Which masked slots are revealed first: least entropy, greatest confidence (probability of
    the chosen token), greatest margin (p1 - p2), random, or left_to_right. Ties: lowest slot. Under
    the official schedule by its published name: entropy, maskgit_plus, topk_margin or origin
    (Dream's `alg`); low_confidence or random (LLaDA's `remasking`); low_confidence (LLaDA2);
    entropy (RND1); low_confidence_dynamic, low_confidence_static or sequential (SDAR)."""
    max_new_tokens: Count = 256
    """N, the number of response slots."""
    schedule: Schedule = "fixed"
    """How many slots a step reveals: fixed (tokens_per_step), threshold, factor, or official (the
    published function of the model's family, step for step and draw for draw)."""
    tokens_per_step: Count = 1
    """Slots revealed a step (fewer when fewer are masked)."""
    threshold: Share | None = None
    """Reveal every slot whose confidence is at least this, and always the best one. Official
    schedule, LLaDA2 and SDAR: those above it, and always as many as are due; null: no more."""
    factor: Annotated[float, Bound(">", 0)] | None = None
    """Fast-dLLM's rule: of the slots sorted by confidence, as many as there are ranks r with
    confidence >= 1 - factor / (r + 1), and always the best one."""
    min_per_step: Count = 1
    """Schedules threshold and factor: reveal at least this many slots a step."""
    blocks_ahead: Annotated[int, Bound(">=", 0)] = 0
    """Schedule threshold with block_length: so many blocks behind the leftmost unfinished one are
    decoded with it where they are sure: from the moment that a tenth of the block before is
    decoded, slots that reach the threshold; from 95% on, at least min_per_step (d3LLM's rule)."""
    block_length: Count | None = None
    """Decode blocks of this many slots from left to right; null: the whole canvas (a block-causal
    model: its own blocks)."""
    temperature: NonNegative = 0.0
    """0 takes the argmax; above 0 samples with keyed draws, and the policy's score is taken from
    the tempered, truncated distribution (as Dream does)."""
    top_p: Share | None = None
    """Sample from the likeliest tokens that hold this share of the probability; null: from all."""
    top_k: Count | None = None
    """Sample from this many likeliest tokens; null: from all."""
    greedy_tokens: bool = False
    """Above temperature 0 take the argmax all the same; temperature, top_p and top_k then shape
    the policy's score alone (as the release's evaluation of Dream does)."""
    suppress_mask: bool | None = None
    """Give the mask token no probability (it can never be an answer); null: yes, except under the
    official schedule, where LLaDA2.1's loop alone does, which would not end else."""
    approximate: Approximate | None = None
    """Reuse keys and values that are out of date: prefix (of all before the block) or dual (of all
    but the block), renewed when a block begins. Inexact; needs block_length."""
    stop: Stop = "full"
    """When a response is finished: full (every slot is decoded) or text (no masked slot is left of
    the leftmost end token, so that the text is final: the slots behind it that are still masked
    are filled, have no step, and are never trained on)."""
    eos_penalty: NonNegative = 0.0
    """Added to the logit of the end-of-text token, times log(share of slots decoded + 0.001): it
    comes late instead of flooding the canvas (Dream-Coder takes 3)."""
    suppress_ids: tuple[int, ...] = ()
    """Tokens that are never an answer."""
    begin_suppress_ids: tuple[int, ...] = ()
    """Tokens without a share in the confidence (entropy, margin): a slot whose answer is one of
    them is revealed after all others, as with dllm's begin_suppress_tokens."""
    steps: Count | None = None
    """Official schedule: model calls (of LLaDA2 and SDAR: in a block); null: a call for each slot
    (of the block)."""
    eps: Annotated[float, Bound(">", 0), Bound("<", 1)] | None = None
    """Official schedule, Dream: where the schedule of its mask ratio ends; null: 1e-3."""
    alg_temp: NonNegative | None = None
    """Official schedule, Dream: temperature of the choice of slots; null: none is drawn."""
    cfg_scale: NonNegative = 0.0
    """Official schedule, LLaDA: classifier-free guidance; 0: none."""
    logits_eos_inf: bool = False
    """Official schedule, LLaDA: the end token is never an answer."""
    confidence_eos_eot_inf: bool = False
    """Official schedule, LLaDA: end of text and end of turn are answered last."""
    official_loop: Literal["llada2.0", "llada2.1"] | None = None
    """Official schedule, LLaDA2: whose published function; the two share weights and config."""
    eos_early_stop: bool = False
    """Official schedule, LLaDA2 and SDAR: stop once the response is decoded up to an end token
    (LLaDA2.0 stops after any block with one in any case)."""
    minimal_topk: Count = 1
    """Official schedule, LLaDA2.0: no block takes more calls than max_new_tokens over this."""
    num_to_transfer: Count = 1
    """Official schedule, LLaDA2.1: slots that a call reveals at least."""
    editing_threshold: Annotated[float, Bound(">=", 0), Bound("<=", 1)] | None = None
    """Official schedule, LLaDA2.1: a revealed token gives way to another one that is surer than
    this; null: none does."""
    max_post_steps: Annotated[int, Bound(">=", 0)] = 16
    """Official schedule, LLaDA2.1: calls for edits alone, after a block is filled."""
    eb_gamma: NonNegative | None = None
    """Official schedule, RND1: reveal slots, the surest first, as long as their entropies without
    the greatest of them sum up to this at most; null: by the schedule."""

    @property
    def is_official(self) -> bool:
        return self.schedule == "official"

    @property
    def draws_tokens(self) -> bool:
        """Whether a token is drawn, so that two samples of one prompt can differ by it."""
        return self.temperature > 0 and not self.greedy_tokens

    @property
    def is_mask_suppressed(self) -> bool:
        if self.suppress_mask is None:
            return not self.is_official or self.official_loop == "llada2.1"
        return self.suppress_mask

    def is_given(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        return bool(getattr(self, name) != getattr(DecodingConfig, name))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_policy()
        for name, schedules in SCHEDULES_OF.items():
            if self.is_given(name) and self.schedule not in schedules:
                raise ConfigError(
                    f"{name} = {getattr(self, name)!r} belongs to schedule "
                    f"{' or '.join(map(repr, schedules))}, and schedule is {self.schedule!r}; "
                    "leave one of them out"
                )
        self._check_schedule()

    def _check_policy(self) -> None:
        official = {policy for names in OFFICIAL_POLICIES.values() for policy in names}
        allowed = sorted(official) if self.is_official else list(get_args(OwnPolicy))
        if self.policy not in allowed:
            raise ConfigError(
                f"policy {self.policy!r} does not go with schedule {self.schedule!r}, "
                f"whose policies are {', '.join(allowed)}"
            )
        # What a published function takes depends on the family.
        is_cut = self.block_length is not None and not self.is_official
        if is_cut and self.max_new_tokens % (self.block_length or 1):
            raise ConfigError(
                f"block_length {self.block_length} does not divide max_new_tokens "
                f"{self.max_new_tokens}; take a divisor, or null for one block"
            )

    def _check_schedule(self) -> None:
        if self.schedule in ("threshold", "factor"):
            if getattr(self, self.schedule) is None:
                raise ConfigError(f"schedule {self.schedule!r} needs {self.schedule}")
            if self.policy != "confidence":
                raise ConfigError(
                    f"schedule {self.schedule!r} compares confidences; policy is "
                    f"{self.policy!r}, take confidence"
                )
        if self.blocks_ahead and (self.block_length is None or self.approximate is not None):
            raise ConfigError(
                f"blocks_ahead {self.blocks_ahead} needs a block_length, and no approximate cache, "
                f"which holds all but one block; got block_length {self.block_length} and "
                f"approximate {self.approximate!r}"
            )
        if self.greedy_tokens and self.temperature == 0:
            raise ConfigError("greedy_tokens is for a temperature above 0; got temperature 0.0")
        if self.stop == "text" and self.is_official:
            raise ConfigError(
                "stop 'text' does not go with schedule 'official', which makes every call "
                "of the published function; take stop full, or another schedule"
            )
        if self.approximate is not None and (self.is_official or self.block_length is None):
            raise ConfigError(
                f"approximate {self.approximate!r} needs a block_length, and a schedule "
                f"other than official; got block_length {self.block_length} and schedule "
                f"{self.schedule!r}"
            )
