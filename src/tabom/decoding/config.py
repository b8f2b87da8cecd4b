"""How a response is decoded. Part of the fingerprint of everything that decoding produced."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tabom.core.configs import require_finite
from tabom.core.errors import ConfigError
from tabom.core.plain import ADDED_LATER

Policy = Literal[
    "entropy",
    "confidence",
    "margin",
    "random",
    "maskgit_plus",
    "topk_margin",
    "origin",
    "low_confidence",
]
Schedule = Literal["fixed", "threshold", "factor", "official"]
Approximate = Literal["prefix", "dual"]
Stop = Literal["full", "text"]
OWN_POLICIES = ("entropy", "confidence", "margin", "random")
OFFICIAL_POLICIES = {
    "dream": ("entropy", "maskgit_plus", "topk_margin", "origin"),
    "llada": ("low_confidence", "random"),
}
# Options of one schedule only: name -> (schedule, the value that means "not given").
OPTIONS_OF: dict[str, tuple[Schedule, Any]] = {
    "tokens_per_step": ("fixed", 1),
    "threshold": ("threshold", None),
    "factor": ("factor", None),
    "steps": ("official", None),
    "eps": ("official", None),
    "alg_temp": ("official", None),
    "cfg_scale": ("official", 0.0),
    "logits_eos_inf": ("official", False),
    "confidence_eos_eot_inf": ("official", False),
}


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Settings of the decoding loop.

    policy: which masked slots are revealed first: least entropy, greatest confidence (probability
        of the chosen token), greatest margin (p1 - p2), or random. Ties: lowest slot. Under the
        official schedule by its published name: entropy, maskgit_plus, topk_margin or origin
        (Dream's `alg`); low_confidence or random (LLaDA's `remasking`).
    max_new_tokens: N, the number of response slots.
    schedule: how many slots a step reveals: fixed (tokens_per_step), threshold, factor, or
        official (the published function of the model's family, step for step and draw for draw).
    tokens_per_step: slots revealed a step (fewer when fewer are masked).
    threshold: reveal every slot whose confidence is at least this, and always the best one.
    factor: Fast-dLLM's rule: of the slots sorted by confidence, as many as there are ranks r with
        confidence >= 1 - factor / (r + 1), and always the best one.
    block_length: decode blocks of this many slots from left to right; None: the whole canvas (a
        block-causal model: its own blocks).
    temperature: 0 takes the argmax; above 0 samples with keyed draws, and the policy's score is
        taken from the tempered, truncated distribution (as Dream does).
    top_p, top_k: truncation of the sampling distribution; None: off.
    greedy_tokens: above temperature 0 take the argmax all the same; temperature, top_p and top_k
        then shape the policy's score alone (as the release's evaluation of Dream does).
    suppress_mask: give the mask token no probability (it can never be an answer); None: yes,
        except under the official schedule, which never does.
    approximate: reuse keys and values that are out of date: prefix (of all before the block) or
        dual (of all but the block), renewed when a block begins. Inexact; needs block_length.
    stop: when a response is finished: full (every slot is decoded) or text (no masked slot is left
        of the leftmost end token, so that the text is final: the slots behind it that are still
        masked are filled, have no step, and are never trained on).
    steps: official: model calls; None: max_new_tokens.
    eps: official, Dream: where the schedule of its mask ratio ends; None: 1e-3.
    alg_temp: official, Dream: temperature of the choice of slots; None: none is drawn.
    cfg_scale: official, LLaDA: classifier-free guidance; 0: none.
    logits_eos_inf: official, LLaDA: EOS is never an answer.
    confidence_eos_eot_inf: official, LLaDA: EOS and end-of-turn are answered last.
    """

    policy: Policy = "entropy"
    max_new_tokens: int = 256
    schedule: Schedule = "fixed"
    tokens_per_step: int = 1
    threshold: float | None = None
    factor: float | None = None
    block_length: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    greedy_tokens: bool = False
    suppress_mask: bool | None = None
    approximate: Approximate | None = None
    stop: Stop = field(default="full", metadata=ADDED_LATER)
    steps: int | None = None
    eps: float | None = None
    alg_temp: float | None = None
    cfg_scale: float = 0.0
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False

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

    def __post_init__(self) -> None:
        require_finite(self, "decoding")
        self._check_choices()
        self._check_numbers()
        for name, (schedule, neutral) in OPTIONS_OF.items():
            if getattr(self, name) != neutral and schedule != self.schedule:
                raise ConfigError(
                    f"decoding {name} = {getattr(self, name)!r} belongs to schedule {schedule!r}, "
                    f"and schedule is {self.schedule!r}; leave one of them out"
                )
        self._check_schedule()

    def _check_choices(self) -> None:
        for name, kind in (("policy", Policy), ("schedule", Schedule), ("stop", Stop)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"decoding {name} {getattr(self, name)!r} is not one of "
                    f"{', '.join(get_args(kind))}"
                )
        if self.approximate not in (None, *get_args(Approximate)):
            raise ConfigError(
                f"decoding approximate {self.approximate!r} is not one of "
                f"{', '.join(get_args(Approximate))} (or null: exact)"
            )
        official = {policy for names in OFFICIAL_POLICIES.values() for policy in names}
        allowed = sorted(official) if self.is_official else list(OWN_POLICIES)
        if self.policy not in allowed:
            raise ConfigError(
                f"decoding policy {self.policy!r} does not go with schedule {self.schedule!r}, "
                f"whose policies are {', '.join(allowed)}"
            )

    def _check_numbers(self) -> None:
        for name in ("max_new_tokens", "tokens_per_step", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"decoding {name} must be at least 1, got {value}")
        if self.block_length is not None and (
            self.block_length < 1 or self.max_new_tokens % self.block_length
        ):
            raise ConfigError(
                f"decoding block_length {self.block_length} does not divide max_new_tokens "
                f"{self.max_new_tokens}; take a divisor, or null for one block"
            )
        for name in ("temperature", "alg_temp", "cfg_scale"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"decoding {name} must be >= 0, got {value}")
        for name in ("top_p", "threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"decoding {name} must be in (0, 1], got {value}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"decoding top_k must be at least 1, got {self.top_k}")
        if self.factor is not None and self.factor <= 0:
            raise ConfigError(f"decoding factor must be above 0, got {self.factor}")
        if self.eps is not None and not 0 < self.eps < 1:
            raise ConfigError(f"decoding eps must be in (0, 1), got {self.eps}")

    def _check_schedule(self) -> None:
        if self.schedule in ("threshold", "factor"):
            if getattr(self, self.schedule) is None:
                raise ConfigError(f"decoding schedule {self.schedule!r} needs {self.schedule}")
            if self.policy != "confidence":
                raise ConfigError(
                    f"decoding schedule {self.schedule!r} compares confidences; policy is "
                    f"{self.policy!r}, take confidence"
                )
        if self.greedy_tokens and (self.is_official or self.temperature == 0):
            raise ConfigError(
                "decoding greedy_tokens is for a temperature above 0, and a schedule other than "
                f"official; got temperature {self.temperature} and schedule {self.schedule!r}"
            )
        if self.stop == "text" and self.is_official:
            raise ConfigError(
                "decoding stop 'text' does not go with schedule 'official', which makes every call "
                "of the published function; take stop full, or another schedule"
            )
        if self.approximate is not None and (self.is_official or self.block_length is None):
            raise ConfigError(
                f"decoding approximate {self.approximate!r} needs a block_length, and a schedule "
                f"other than official; got block_length {self.block_length} and schedule "
                f"{self.schedule!r}"
            )
