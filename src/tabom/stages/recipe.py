"""The recipe: one YAML file that describes a whole study."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tabom.collect.config import CollectionConfig
from tabom.collect.prompts import PromptSource
from tabom.core import configs
from tabom.core.configs import Bound, Count, Settings, Share
from tabom.core.errors import ConfigError
from tabom.core.identity import FREE
from tabom.core.place import place
from tabom.core.recipe_file import read_recipe
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.stages.launch_config import LaunchConfig, StudyConfig
from tabom.stages.sets import EvaluationConfig, check_sets
from tabom.training.config import Rejected, TrainingConfig
from tabom.verify.config import VerifierConfig

ArmData = Literal["self_distilled", "ground_truth", "none"]
_TAKEN = ("", ".", "..", "collect", "verify")  # folders that a seed's own stages write
_MAX_NAME = 100  # it names a folder


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One objective in a study."""

    name: str
    """As it appears in tables; it names the arm's folder."""
    objective: str | None = None
    """A preset (see docs/objectives.md); null for the untrained base."""
    data: ArmData = "self_distilled"
    """self_distilled (accepted trajectories) or ground_truth (the data set's own answers)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the preset."""
    rejected: Rejected = "leave_out"
    """What becomes of rejected trajectories; see `tabom train --help`."""
    rounds: Count | None = None
    """How often this arm collects with what it trained and trains on; null: as the recipe."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of `training` that differ for this arm."""

    def __post_init__(self) -> None:
        is_taken = self.slug.strip("- ") in _TAKEN
        if is_taken or not self.name.isprintable() or len(self.name) > _MAX_NAME:
            raise ConfigError(
                f"arms: {self.name[: _MAX_NAME + 1]!r} cannot name an arm's folder; take at most "
                f"{_MAX_NAME} characters, with letters, and not 'collect' or 'verify'"
            )

    @property
    def is_trained(self) -> bool:
        return self.objective is not None

    @property
    def slug(self) -> str:
        """The arm's folder name."""
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in self.name.lower())


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig(Settings):
    """What is measured beside accuracy."""

    num_trajectories: Annotated[int, Bound(">=", 0)] = 64
    """Base trajectories on which order agreement and the loss ratio are taken."""
    cuts_per_trajectory: Count = 4
    """Fixed contexts of each trajectory."""
    mask_ratios: tuple[Share, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Shares of masked slots at which the loss ratio is taken."""
    batch_size: Count = field(default=32, metadata=FREE)
    """Contexts in one forward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mask_ratios:
            raise ConfigError("mask_ratios: expected one or more shares, got none")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole study: collect -> verify -> train -> evaluate -> diagnose -> report."""

    name: str
    """Of the study; it names its folder under runs/."""
    model: ModelConfig
    """The base model."""
    prompts: PromptSource
    """The training prompts."""
    arms: tuple[ArmConfig, ...]
    """What is compared: each an objective, and one without for the untrained base."""
    output_dir: str = ""
    """Where the study writes, a folder or a URL; left out: runs/NAME."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Of the file system behind a URL, as fsspec takes them; written nowhere, for they may hold
    keys."""
    rounds: Count = 1
    """How often each arm collects, with the adapter of the round before, and trains on."""
    seeds: tuple[int, ...] = (0,)
    """Each collects and trains anew."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How responses are decoded."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """How trajectories are collected."""
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    """Which checker judges responses."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How each arm is trained."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What every arm is measured on."""
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    """What is measured beside accuracy."""
    study: StudyConfig = field(default_factory=StudyConfig)
    """How the stages are spread over this machine."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where their chunks are worked on."""

    def __post_init__(self) -> None:
        # Two of one name would write into one folder, or stand in one column of the report.
        for what, names in (
            ("arms", [a.slug for a in self.arms]),
            ("seeds", [str(s) for s in self.seeds]),
        ):
            twice = sorted(n for n, count in Counter(names).items() if count > 1)
            if twice:
                raise ConfigError(f"{what}: {', '.join(twice)} occurs more than once")
            if not names:
                raise ConfigError(f"{what}: a recipe needs at least one {what[:-1]}")
        if not _is_one_part(self.name):
            raise ConfigError(
                f"name: {self.name!r} cannot name a folder in runs/; leave out slashes, and set "
                "output_dir to write elsewhere"
            )
        if not self.output_dir:
            object.__setattr__(self, "output_dir", str(Path("runs") / self.name))
        configs.expand_home(self, "output_dir")
        for seed in (*self.seeds, self.evaluation.seed):
            if not 0 <= seed < 2**32:  # what every generator on the way takes
                raise ConfigError(f"seeds: a seed must be from 0 to 2**32 - 1, got {seed}")
        for arm in self.arms:
            if arm.objective is None and arm.data == "ground_truth":
                raise ConfigError(f"arms: {arm.name!r} has data but no objective to train with")
            # It is built only to be checked here, not hours later when the arm trains.
            self.training_of(arm)
        check_sets(self.evaluation, decoding=self.decoding, verifier=self.verifier)

    @property
    def root(self) -> Path:
        """The folder of the study, or its URL."""
        return place(self.output_dir, self.storage_options, to_write=True)

    def public(self) -> dict[str, Any]:
        """The recipe in plain values, without what may hold keys."""
        return {k: v for k, v in configs.to_plain(self).items() if k != "storage_options"}

    @property
    def base_arm(self) -> ArmConfig | None:
        return next((arm for arm in self.arms if not arm.is_trained), None)

    def rounds_of(self, arm: ArmConfig) -> int:
        """How often an arm collects and trains; ground truth is never collected."""
        return 1 if arm.data == "ground_truth" else arm.rounds or self.rounds

    def training_of(self, arm: ArmConfig) -> TrainingConfig:
        """The training settings of one arm: the recipe's, with the arm's own on top."""
        merged = {**configs.to_plain(self.training), **arm.training}
        return configs.build(TrainingConfig, merged, where=f"arms.{arm.name}.training")


def load_recipe(name_or_path: str, *, overrides: Sequence[configs.Override] = ()) -> Recipe:
    """Read a recipe and what it extends, put overrides on top, and check every key."""
    file = read_recipe(name_or_path).changed(overrides)
    return configs.build(Recipe, file.mapping, source=file.file_of)


def _is_one_part(name: str) -> bool:
    """Whether a name stays where it is put: one part of a path, and no way up or home."""
    is_plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\")
    return is_plain and name not in ("", ".", "..") and name[0] != "~"
