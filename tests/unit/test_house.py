"""The house itself: light imports, no remote code, what the wheel carries."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tabom

SOURCE = Path(tabom.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "pyarrow")


def loaded_after(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after a statement."""
    names = "[m for m in sys.modules if '.' not in m]"
    code = f"import sys, json\n{statement}\nprint(json.dumps({names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1])) & set(HEAVY)


@pytest.mark.parametrize(
    "statement",
    [
        "import tabom",
        "import tabom.cli.main as m; m.build_parser(None)",
        "import tabom.toyworld.tasks, tabom.toyworld.diagnostics",
        "from tabom.core import configs, manifest, keys, env",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_planning_a_study_needs_no_torch() -> None:
    statement = (
        "from tabom.stages.recipe import load_recipe\n"
        "from tabom.stages.study import plan_study\n"
        "plan_study(load_recipe('toy-quick', overrides=['output_dir=none']))"
    )
    assert not loaded_after(statement) & {"torch", "transformers", "peft", "accelerate"}


def test_the_flags_of_every_verb_need_no_torch() -> None:
    statement = (
        "from tabom.cli.main import VERBS, build_parser\n"
        "for verb in VERBS: build_parser(verb).format_help()"
    )
    assert loaded_after(statement) <= {"pyarrow"}


def test_no_remote_code_and_no_paths_of_a_machine() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"trust_remote_code\s*=", text), path
        assert not re.search(r"(?<!})/(home|root|work)/", text), path


def test_public_names_resolve() -> None:
    for name in tabom.__all__:
        assert getattr(tabom, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tabom.nothing  # noqa: B018


def test_files_that_the_docs_name_are_there() -> None:
    """A name as it is, or from src, src/tabom or tests/unit; a test alone may lie anywhere."""
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("models/families/breeze.py", "")
        for name in re.findall(r"[\w/]+\.py\b", text):
            places = [ROOT / start / name for start in ("", "src", "src/tabom", "tests/unit")]
            is_there = name in tests if name.startswith("test_") else any(map(Path.is_file, places))
            if not is_there and ("/" in name or name.startswith("test_")):
                missing.append(f"{page.name}: {name}")
    assert missing == []


def test_no_weights_above_five_megabytes() -> None:
    assert [p for p in SOURCE.rglob("*") if p.is_file() and p.stat().st_size > 5 * 2**20] == []


def test_the_wheel_carries_every_file_of_the_package(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "src/tabom"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout, so nothing says which files belong to the package")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {name.removeprefix("src/") for name in listed if (ROOT / name).exists()}
    assert expected <= names
    assert not {n for n in names if n.startswith("tests/") or n.endswith((".pyc", ".whl"))}
