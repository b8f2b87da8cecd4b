import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tabom.core.env import hardware, versions
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function


def test_loads_functions_and_methods() -> None:
    assert load_function("os.path:join") is __import__("os").path.join
    assert load_function("pathlib:Path.exists") is Path.exists


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path.join", r"expected 'package\.module:function'"),
        (":join", r"expected 'package\.module:function'"),
        ("os.path:", r"expected 'package\.module:function'"),
        ("no_such_pkg.sub:f", r"there is no module 'no_such_pkg'; put it beside the recipe"),
        ("os.path.nope:f", r"there is no module 'os\.path\.nope'"),
        ("os.path:joim", r"'os\.path' has no 'joim'; did you mean 'join'\?"),
        ("os:sep", r"it is a str, expected something callable"),
    ],
)
def test_hook_errors(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_function(name)


def test_a_module_that_fails_inside_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_more.py").write_text("import not_installed_thing\n")
    (tmp_path / "explodes.py").write_text("1 / 0\n")
    with pytest.raises(
        ConfigError, match=r"importing 'needs_more' failed: .*No module named 'not_"
    ):
        load_function("needs_more:f")
    with pytest.raises(ConfigError, match="importing 'explodes' failed: ZeroDivisionError"):
        load_function("explodes:f")


def test_versions_and_hardware() -> None:
    found = versions()
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    found["numpy"] = "changed"
    assert versions()["numpy"] != "changed"
    machine = hardware()
    assert machine["num_cores"] >= 1
    assert machine["gpus"] == []
    assert machine["cpu"]


def test_core_and_the_write_path_import_nothing_heavy() -> None:
    code = (
        "import sys, tabom.core.env, tabom.core.configs, tabom.core.manifest, tabom.core.hooks\n"
        "import tabom.trajectory.record, tabom.trajectory.order\n"
        "tabom.core.env.versions(); tabom.core.env.hardware()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import tabom.trajectory.store, tabom.trajectory.verdicts\n"
        "heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
