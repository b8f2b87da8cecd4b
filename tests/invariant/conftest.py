import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

WORLD = Path(__file__).with_name("training_world.py")


@pytest.fixture(scope="session")
def world() -> ModuleType:
    """The tiny training world as a module (test folders are not on sys.path)."""
    spec = importlib.util.spec_from_file_location("training_world", WORLD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_world"] = module
    spec.loader.exec_module(module)
    return module
