"""A user's module is found beside the recipe and in the working folder, without PYTHONPATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tabom.core.hooks import load_function
from tabom.core.recipe_file import read_recipe


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


def test_in_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "checks_in_cwd.py").write_text("def check(*, response, row):\n    return True\n")
    monkeypatch.chdir(tmp_path)
    assert load_function("checks_in_cwd:check")(response="", row={}) is True


def test_beside_the_recipe_and_in_processes_started_from_here(tmp_path: Path) -> None:
    (tmp_path / "checks_beside.py").write_text("import helper_beside\nf = helper_beside.f\n")
    (tmp_path / "helper_beside.py").write_text("def f():\n    return 5\n")
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    read_recipe(str(tmp_path / "recipe.yaml"))
    assert load_function("checks_beside:f")() == 5
    code = "import checks_beside; print(checks_beside.f())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5"


def test_nothing_of_others_is_hidden(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    assert load_function("json:dumps")([1]) == "[1]"
