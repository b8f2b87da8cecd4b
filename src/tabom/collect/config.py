"""Settings of a collection."""

from dataclasses import dataclass

from tabom.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Settings of a collection that do not change its trajectories, and how many are drawn.

    batch_size: prompts decoded together (sorted by length, so padding is small).
    num_samples: trajectories per prompt (above 1 needs decoding.temperature > 0).
    max_prompt_tokens: longer prompts are left out and counted; null keeps all.
    torch_compile: compile the layers first (minutes at the start; then faster where every batch
        has one shape, above all on a GPU).
    """

    batch_size: int = 32
    num_samples: int = 1
    max_prompt_tokens: int | None = None
    torch_compile: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"collection.{name} must be at least 1")
