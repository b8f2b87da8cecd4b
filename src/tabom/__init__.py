"""Post-training of masked diffusion language models on their own decoding trajectories."""

from importlib import import_module
from typing import Any

from tabom._version import __version__

# Public names and where they live. Resolved on first use, so that `import tabom` stays instant.
_PUBLIC = {
    "Trajectory": "tabom.trajectory.record",
    "TrajectoryStore": "tabom.trajectory.store",
    "load_model": "tabom.models.loading",
    "DecodingConfig": "tabom.decoding.config",
    "DecodeRequest": "tabom.decoding.decoder",
    "Decoder": "tabom.decoding.decoder",
    "build_objective": "tabom.objectives.presets",
    "Objective": "tabom.objectives.compose",
    "Mixture": "tabom.objectives.mixture",
    "ModelConfig": "tabom.models.config",
    "PromptSource": "tabom.collect.prompts",
    "VerifierConfig": "tabom.verify.config",
    "TrainingConfig": "tabom.training.config",
    "EvaluationConfig": "tabom.stages.sets",
    "SetConfig": "tabom.stages.sets",
    "Collect": "tabom.stages.collect",
    "Verify": "tabom.stages.verify",
    "Train": "tabom.stages.train",
    "Evaluate": "tabom.stages.evaluate",
    "Diagnose": "tabom.stages.diagnose",
    "load_recipe": "tabom.stages.recipe",
    "run_recipe": "tabom.stages.run",
    "compare_folders": "tabom.stages.runs",
    "judge": "tabom.verify.checkers",
    "linear_ce_entropy": "tabom.vocabulary.head",
    "TabomError": "tabom.core.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tabom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
