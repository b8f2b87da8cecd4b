"""What stands around the code: workflows, the site, the package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tabom

ROOT = Path(__file__).resolve().parents[2]


def test_workflows_and_templates_are_yaml_with_what_they_need() -> None:
    """They are parsed here and not run."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        assert jobs
        for job in jobs.values():
            assert job["timeout-minutes"] <= 90
            assert all("uses" in step or "run" in step for step in job["steps"])
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    assert tests["test"]["strategy"]["matrix"]["python"][0] == "3.10"
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    extras = set(re.findall(r"^(\w+) = \[", table.partition("\n\n")[0], re.M))
    assert "quantization" in extras
    assert set(tests["extras"]["strategy"]["matrix"]["extra"]) == extras
    assert (
        set(re.findall(r"^def use_(\w+)", (ROOT / ".ci/use_extra.py").read_text(), re.M)) == extras
    )
    assert (
        set(re.findall(r"EXTRAS:-([a-z0-9 ]+)", (ROOT / ".ci/extras").read_text())[0].split())
        == extras
    )
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["body"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"format", "ruff", "types", "rooms"}
    json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    recipe = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split(maxsplit=1) for line in recipe if line and not line.startswith("#")]
    assert words[0][0] == "FROM"
    assert {word for word, _ in words} <= {
        "FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"
    }  # fmt: skip
    (asked,) = (text for word, text in words if word == "ARG" and text.startswith("EXTRAS="))
    assert set(asked.removeprefix("EXTRAS=").split(",")) <= extras
    assert json.loads(words[-1][1])[0] == "run"


def test_every_page_of_the_site_is_in_its_table_of_contents() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed: list[str] = []
    waiting = [site["nav"]]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            listed.append(item)
        else:
            waiting += item.values() if isinstance(item, dict) else item
    docs = ROOT / "docs"
    pages = [*docs.glob("*.md"), *docs.rglob("*.ipynb")]
    assert sorted(listed) == sorted(p.relative_to(docs).as_posix() for p in pages)


def test_every_public_name_is_there_and_in_the_reference() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for name, module in tabom._PUBLIC.items():
        assert getattr(tabom, name) is not None
        assert f".{name}" in text or name.endswith(("Config", "Error", "Source")), (name, module)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("mkdocs_jupyter")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "DecodeRequest" in page
    for path in (tmp_path / "site").rglob("*.html"):
        assert "fonts.googleapis" not in path.read_text()


@pytest.mark.slow
def test_the_package_is_ready_for_the_index(tmp_path: Path) -> None:
    pytest.importorskip("twine")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    files = sorted(map(str, tmp_path.iterdir()))
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_configurations_of_accelerate_are_listed_and_parsed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    from tabom.cli.main import main
    from tabom.core.recipe_file import launch_names

    assert main(["recipes", "ls"]) == 0
    out = capsys.readouterr().out
    for name in launch_names():
        assert name in out
        assert main(["recipes", "cp", name, str(tmp_path)]) == 0
        config = load_config_from_file(str(tmp_path / f"{name.split('/')[1]}.yaml"))
        assert config.num_processes in (1, 8)
    kinds = {name: yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
             for name in ("ddp", "fsdp2", "zero2", "zero3")}  # fmt: skip
    assert kinds["fsdp2"]["fsdp_config"]["fsdp_version"] == 2
    assert [kinds[f"zero{n}"]["deepspeed_config"]["zero_stage"] for n in (2, 3)] == [2, 3]
