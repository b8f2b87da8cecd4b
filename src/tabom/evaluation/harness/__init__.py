"""lm-eval beside us: its tasks as sets of ours, and our model and benchmarks in its command line.

Importing this package makes lm-eval know the model `tabom`, which is loaded on use: lm-eval 0.4.13
looks up no entry points, later versions read the entry point `lm_eval.models` of this package.
"""

from pathlib import Path

from tabom.core.errors import ConfigError
from tabom.evaluation.benchmarks import names

NAME = "tabom"
TARGET = "tabom.evaluation.harness.model:TabomLM"

try:
    import lm_eval
    from lm_eval import models  # noqa: F401  (fills the registry before we add to it)
    from lm_eval.api.registry import model_registry
except ImportError as error:
    raise ConfigError(
        f"lm-eval is not installed, and tasks that are none of ours ({', '.join(names())}) need "
        "it: pip install 'tabom[eval]'"
    ) from error

VERSION = str(lm_eval.__version__)

if NAME not in model_registry:
    model_registry.register(NAME, target=TARGET)


def folder() -> Path:
    """Where the task files of our benchmarks lie: for lm-eval's `--include_path`."""
    return Path(__file__).parent / "tasks"
