"""How a response is decoded. Part of the fingerprint of everything that decoding produced."""

from dataclasses import dataclass
from typing import Literal, get_args

from tabom.core.errors import ConfigError

Policy = Literal["entropy", "confidence", "margin", "random"]


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Settings of the decoding loop.

    policy: which masked slots are revealed first: least entropy, greatest confidence (probability
        of the chosen token), greatest margin (p1 - p2), or random. Ties: lowest slot.
    max_new_tokens: N, the number of response slots.
    tokens_per_step: slots revealed a step (fewer when fewer are masked).
    block_length: decode blocks of this many slots from left to right; None: the whole canvas.
    temperature: 0 takes the argmax; above 0 samples with keyed draws, and the policy's score is
        taken from the tempered, truncated distribution (as Dream does).
    top_p, top_k: truncation of the sampling distribution; None: off.
    suppress_mask: give the mask token no probability (it can never be an answer).
    """

    policy: Policy = "entropy"
    max_new_tokens: int = 256
    tokens_per_step: int = 1
    block_length: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_mask: bool = True

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(
                f"decoding policy {self.policy!r} is not one of {', '.join(get_args(Policy))}"
            )
        for name in ("max_new_tokens", "tokens_per_step"):
            if getattr(self, name) < 1:
                raise ConfigError(f"decoding {name} must be at least 1, got {getattr(self, name)}")
        if self.block_length is not None and (
            self.block_length < 1 or self.max_new_tokens % self.block_length
        ):
            raise ConfigError(
                f"decoding block_length {self.block_length} does not divide max_new_tokens "
                f"{self.max_new_tokens}; take a divisor, or null for one block"
            )
        if self.temperature < 0:
            raise ConfigError(f"decoding temperature must be >= 0, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"decoding top_p must be in (0, 1], got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"decoding top_k must be at least 1, got {self.top_k}")
