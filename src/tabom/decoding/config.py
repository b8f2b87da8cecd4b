"""How a response is decoded. Part of the fingerprint of everything that decoding produced."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tabom.core.configs import Bound, Count, NonNegative, Settings, Share
from tabom.core.errors import ConfigError

OwnPolicy = Literal["entropy", "confidence", "margin", "random"]
Policy = Literal[OwnPolicy, "maskgit_plus", "topk_margin", "origin", "low_confidence"]
Schedule = Literal["fixed", "threshold", "factor", "official"]
Approximate = Literal["prefix", "dual"]
Stop = Literal["full", "text"]
LLADA_SWITCHES = ("logits_eos_inf", "confidence_eos_eot_inf")
OFFICIAL_POLICIES = {
    "dream": ("entropy", "maskgit_plus", "topk_margin", "origin"),
    "llada": ("low_confidence", "random"),
}
# Options of one schedule only; whatever a schedule does not know keeps its default.
OPTIONS_OF: dict[Schedule, tuple[str, ...]] = {
    "fixed": ("tokens_per_step",),
    "threshold": ("threshold",),
    "factor": ("factor",),
    "official": ("steps", "eps", "alg_temp", "cfg_scale", *LLADA_SWITCHES),
}


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Settings):
    """Settings of the decoding loop."""

    policy: Policy = "entropy"
    """Which masked slots are revealed first: least entropy, greatest confidence (probability of
    the chosen token), greatest margin (p1 - p2), or random. Ties: lowest slot. Under the official
    schedule by its published name: entropy, maskgit_plus, topk_margin or origin (Dream's `alg`);
    low_confidence or random (LLaDA's `remasking`)."""
    max_new_tokens: Count = 256
    """N, the number of response slots."""
    schedule: Schedule = "fixed"
    """How many slots a step reveals: fixed (tokens_per_step), threshold, factor, or official (the
    published function of the model's family, step for step and draw for draw)."""
    tokens_per_step: Count = 1
    """Slots revealed a step (fewer when fewer are masked)."""
    threshold: Share | None = None
    """Reveal every slot whose confidence is at least this, and always the best one."""
    factor: Annotated[float, Bound(">", 0)] | None = None
    """Fast-dLLM's rule: of the slots sorted by confidence, as many as there are ranks r with
    confidence >= 1 - factor / (r + 1), and always the best one."""
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
    official schedule, which never does."""
    approximate: Approximate | None = None
    """Reuse keys and values that are out of date: prefix (of all before the block) or dual (of all
    but the block), renewed when a block begins. Inexact; needs block_length."""
    stop: Stop = "full"
    """When a response is finished: full (every slot is decoded) or text (no masked slot is left of
    the leftmost end token, so that the text is final: the slots behind it that are still masked
    are filled, have no step, and are never trained on)."""
    steps: Count | None = None
    """Official schedule: model calls; null: max_new_tokens."""
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

    @property
    def is_official(self) -> bool:
        return self.schedule == "official"

    @property
    def draws_tokens(self) -> bool:
        """Whether a token is drawn, so that two samples of one prompt can differ by it."""
        return self.temperature > 0 and not self.greedy_tokens

    @property
    def is_mask_suppressed(self) -> bool:
        return not self.is_official if self.suppress_mask is None else self.suppress_mask

    def is_given(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        return bool(getattr(self, name) != getattr(DecodingConfig, name))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_policy()
        for schedule, names in OPTIONS_OF.items():
            for name in names:
                if self.is_given(name) and schedule != self.schedule:
                    raise ConfigError(
                        f"{name} = {getattr(self, name)!r} belongs to schedule {schedule!r}, "
                        f"and schedule is {self.schedule!r}; leave one of them out"
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
        if self.block_length is not None and self.max_new_tokens % self.block_length:
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
        if self.greedy_tokens and (self.is_official or self.temperature == 0):
            raise ConfigError(
                "greedy_tokens is for a temperature above 0, and a schedule other than "
                f"official; got temperature {self.temperature} and schedule {self.schedule!r}"
            )
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
