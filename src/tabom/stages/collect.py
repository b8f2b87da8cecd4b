"""Collect: decode the training prompts and store the trajectories."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from tabom.collect.config import CollectionConfig
from tabom.collect.prompts import PromptRows, PromptSource
from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.stages.launch import Chunked
from tabom.stages.preflight import Check, check_decoding
from tabom.stages.stage import Counts, Done, Output, reads


@dataclass(frozen=True, kw_only=True)
class Collect(Chunked):
    """Trajectories of one seed."""

    kind: ClassVar[str] = "collect"
    cost: ClassVar[float] = 3.0
    plan_in: ClassVar[str] = ""

    model: ModelConfig
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What `tabom train` wrote, to decode with; left out: the base alone."""
    prompts: PromptSource
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    seed: int = 0
    """Key of all draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collection.num_samples > 1 and not self.decoding.draws_tokens:
            raise ConfigError(
                "collection.num_samples > 1 at decoding.temperature 0, or with greedy_tokens, "
                "would repeat one trajectory; set decoding.temperature above 0 alone"
            )

    def checks(self) -> Iterator[Check]:
        yield from super().checks()
        yield Check("decoding", check_decoding, (self.decoding, self.model))

    def finish(self, counts: Counts, *, seconds: float) -> None:
        """Nothing is left to do."""
        # Of all workers, the one that saw the end has finished the store and its manifest.

    def work(self, report: Done) -> Counts:
        from tabom.collect.worker import collect
        from tabom.decoding.decoder import Decoder

        prompts = PromptRows(self.prompts, seed=self.seed)
        # Settings that do not go with the model are found here, before anything is written.
        decoder = Decoder(
            self.model.load(trained=self.trained.local() if self.trained else None),
            self.decoding,
            seed=self.seed,
            batch_size=self.collection.batch_size,
            fingerprint=self.fingerprint,
        )
        return collect(
            decoder,
            prompts,
            self.chunks(),
            config=self.collection,
            settings=self.settings,
            progress=report,
        )
