"""Importing this module makes lm-eval know the model `tabom`; the model itself is loaded on use.

lm-eval 0.4.13 looks up no entry points, so something has to import this module: the tasks of the
package do, and `python -m tabom.evaluation.harness` does. Later versions read the entry point
`lm_eval.models` of this package.
"""

from tabom.core.errors import ConfigError

NAME = "tabom"
TARGET = "tabom.evaluation.harness.model:TabomLM"

try:
    from lm_eval import models  # noqa: F401  (fills the registry before we add to it)
    from lm_eval.api.registry import model_registry
except ImportError as error:
    raise ConfigError(
        "lm-eval is not installed, and its tasks need it: pip install 'tabom[eval]'"
    ) from error

if NAME not in model_registry:
    model_registry.register(NAME, target=TARGET)
