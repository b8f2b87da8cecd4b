"""To the hub and back, against a stand-in of its API on this machine."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tabom.cli.main import main
from tabom.core.errors import ConfigError, StageError
from tabom.stages.hub import prepared, pull, push
from tabom.stages.recipe import load_recipe
from tabom.stages.study import plan_study

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: (type, id) -> name -> bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repos.setdefault((asked.get("type") or "model", name), {})
            is_private = asked.get("private") or asked.get("visibility") == "private"
            self.server.private[name] = bool(is_private)
            self._json({"url": f"{self.server.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/(model|dataset)s/(.+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            self._json({"files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]})  # fmt: skip
        elif found := re.fullmatch(r"/api/(model|dataset)s/(.+)/commit/main", self.path):
            repo = self.server.repos[found[1], found[2]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repo[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            kind = "datasets/" * (found[1] == "dataset")
            url = f"{self.server.url}/{kind}{found[2]}/commit/{SHA}"
            self._json({"success": True, "commitOid": SHA, "commitUrl": url})
        else:
            self._json({"error": self.path}, 404)

    def do_HEAD(self) -> None:
        self._get(is_head=True)

    def do_GET(self) -> None:
        self._get(is_head=False)

    def _get(self, *, is_head: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/(model|dataset)s/(.+?)/(revision|tree)/.+", path):
            repo = self.server.repos.get((found[1], found[2]))
            if repo is None:
                self._json({"error": "no such repository"}, 404)
            elif found[3] == "tree":
                self._json([
                    {"type": "file", "path": n, "size": len(c), "oid": SHA} for n, c in repo.items()
                ])  # fmt: skip
            else:
                self._json(
                    {"id": found[2], "sha": SHA, "siblings": [{"rfilename": n} for n in repo]}
                )
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            repo = self.server.repos["dataset" if found[1] else "model", found[2]]
            content = repo[found[3]]
            self.send_response(200)
            for key, value in (("Content-Length", len(content)), ("ETag", f'"{hash(content)}"'),
                               ("X-Repo-Commit", SHA)):  # fmt: skip
                self.send_header(key, str(value))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)
        else:
            self._json({"error": path}, 404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    # Tests are offline; the stand-in is on this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("hub")
    overrides: list[Any] = [
        ("output_dir", str(root)), ("prompts.args.num", 32), ("training.max_steps", 1),
        ("training.per_device_train_batch_size", 4), ("training.warmup_steps", 0),
        ("evaluation.sets.chain.prompts.args.num", 8),
        ("arms", [{"name": "S", "objective": "nelbo"}]),
    ]  # fmt: skip
    plan = plan_study(load_recipe("toy-quick", overrides=overrides))
    for stage in plan.stages:
        if stage.kind != "diagnose":
            stage.run()
    return plan


BASE = "me/toy-base-on-the-hub"


def test_an_adapter_goes_and_comes_back(hub: Hub, study: Any, tmp_path: Path) -> None:
    run = study.runs[0]
    results = [str(run.evaluate.folder)]
    with prepared(run.train.folder, base_model=BASE, license="mit", results=results) as made:
        assert made.kind == "adapter"
        url = push(made, "me/my-adapter", endpoint=hub.url)
    assert "my-adapter" in url
    assert hub.private["me/my-adapter"] is True
    there = hub.repos["model", "me/my-adapter"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(there)
    assert "tabom_manifest.json" not in there  # it tells of this machine
    for name, content in there.items():
        if name.endswith((".md", ".json", ".jsonl")):
            assert str(tmp_path.parent.parent).encode() not in content, name
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == BASE
    card = there["README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["license"], header["library_name"]) == (
        BASE,
        "mit",
        "peft",
    )
    for said in ("## Results", "| chain | 1 |", "arxiv.org/abs/2605.11854", "PeftModel"):
        assert said in card
    back = pull("me/my-adapter", tmp_path / "back", endpoint=hub.url)
    assert (back / "adapter_model.safetensors").read_bytes() == there["adapter_model.safetensors"]
    assert sorted(p.name for p in back.iterdir()) == sorted(there)
    # The card's own lines, with the names of what lies here.
    lines = card.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(lines.replace(BASE, "toy-base").replace("ADAPTER", str(back)), found)
    assert any("lora_" in name for name in found["model"].state_dict())
    with pytest.raises(ConfigError, match="not empty"):
        pull("me/my-adapter", back, endpoint=hub.url)


def test_a_collection_goes_with_its_verdicts(hub: Hub, study: Any, tmp_path: Path) -> None:
    collect, verify = study.collect[0].folder, study.verify[0].folder
    with prepared(collect, verdicts=verify) as made:
        push(made, "me/my-data", private=False, endpoint=hub.url)
    there = hub.repos["dataset", "me/my-data"]
    assert "verdicts.parquet" in there
    card = there["README.md"].decode()
    assert "| trajectories | 32 |" in card
    assert "| accepted |" in card
    back = pull("me/my-data", tmp_path / "data", repo_type="dataset", endpoint=hub.url)
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(back / "data" / "*.parquet"), split="train")
    assert len(rows) == 32


def test_a_dry_run_sends_nothing(hub: Hub, study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(study.runs[0].train.folder)
    words = ["push", folder, "me/x", "--dry_run", "--base_model", BASE]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "adapter_model.safetensors" in out
    assert f"base_model: {BASE}" in out
    assert hub.repos == {}


def test_what_cannot_be_published(study: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--base_model"), prepared(study.runs[0].train.folder):
        pass
    with pytest.raises(StageError, match="nothing to publish"), prepared(tmp_path):
        pass
