"""Settings of a collection."""

from dataclasses import dataclass, field

from tabom.core.configs import Count, Settings
from tabom.core.identity import FREE


@dataclass(frozen=True, kw_only=True)
class CollectionConfig(Settings):
    """Settings of a collection that do not change its trajectories, and how many are drawn."""

    batch_size: Count = field(default=32, metadata=FREE)
    """Prompts decoded together, sorted by length so that padding is small."""
    num_samples: Count = 1
    """Trajectories of each prompt; above 1 needs decoding.temperature > 0."""
    max_prompt_tokens: Count | None = None
    """Longer prompts are left out and counted; null keeps all."""
    torch_compile: bool = field(default=False, metadata=FREE)
    """Compile the layers first: minutes at the start, then faster where every batch has one shape,
    above all on a GPU."""
