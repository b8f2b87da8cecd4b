"""The notebooks: the toy one is executed, the one for a GPU is read line by line with stand-ins."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.models.config import ModelConfig
from tabom.stages.stage import Stage

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"


def cells_of(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_the_toy_notebook_travels_executed() -> None:
    cells = cells_of("toy.ipynb")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(o["output_type"] == "execute_result" for cell in cells for o in cell["outputs"])
    assert (FOLDER / "toy.ipynb").stat().st_size < 100_000
    assert "/site-packages/" not in (FOLDER / "toy.ipynb").read_text()


@pytest.mark.slow
def test_the_toy_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(FOLDER / "toy.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    shown = notebook.cells[-2].outputs[0].data["text/html"]
    assert all(f"<th>{arm}</th>" in shown for arm in ("base", "TABOM", "two contexts"))
    assert (tmp_path / "notebook" / "TABOM" / "train" / "adapter_model.safetensors").is_file()


def test_what_the_gpu_notebook_names_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every import and every setting is real; what needs the weights is a stand-in."""
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        (tmp_path / name).write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    done = []
    model = SimpleNamespace(encode_prompt=lambda text: [1, 2])
    monkeypatch.setattr(ModelConfig, "load", lambda self: model)
    monkeypatch.setattr(Stage, "run", lambda self: done.append(self.kind))
    decoded = SimpleNamespace(trajectory="shown")
    decoder = SimpleNamespace(decode=lambda requests: [decoded])
    monkeypatch.setattr("tabom.decoding.decoder.Decoder", lambda model, config: decoder)
    monkeypatch.setattr("tabom.trajectory.store.TrajectoryStore", lambda folder: ["first"])
    monkeypatch.setattr("tabom.stages.runs.compare_folders", lambda folders: None)
    space: dict[str, Any] = {}
    for cell in cells_of("dream.ipynb"):
        source = "".join(cell["source"])
        if source.startswith("!tabom "):
            verb, *words = shlex.split(source.removeprefix("!tabom "))
            with pytest.raises(SystemExit) as ended:
                main([verb, "--help"])
            assert ended.value.code == 0
            told = capsys.readouterr().out
            assert all(word in told for word in words if word.startswith("--"))
        else:
            exec(compile(source, "dream.ipynb", "exec"), space)  # our own file
    assert done == ["collect", "verify", "train", "evaluate", "evaluate"]
