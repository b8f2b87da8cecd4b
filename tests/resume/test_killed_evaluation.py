"""An evaluation that is killed: the same command goes on, and ends as if nothing was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tabom.cli.main import main
from tabom.core.manifest import read_manifest
from tabom.evaluation.records import read_records
from tabom.trajectory.store import TrajectoryWriter


@pytest.mark.slow
def test_evaluate_goes_on_after_kill(random_toy: Path, tmp_path: Path) -> None:
    # The toy tokenizer knows letters from a to j.
    rows = [{"question": "abcdefghij"[i % 10 :] * (1 + i // 10), "answer": "#### 1"}
            for i in range(40)]  # fmt: skip
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = "\n".join(
        [
            "task: letters",
            "include: " + str(_own("gsm8k_tabom.yaml")),
            'doc_to_text: "{{question}}"',
        ]
    )
    (tmp_path / "letters.yaml").write_text(task + "\n")
    command = [
        sys.executable, "-m", "tabom", "evaluate", "--model_name_or_path", str(random_toy),
        "--tasks", "letters", "--include_path", str(tmp_path), "--data_dir", str(tmp_path),
        "--max_new_tokens", "40", "--batch_size", "1", "--no_chat_template", "--quiet",
    ]  # fmt: skip
    responses = tmp_path / "killed" / "responses.jsonl"
    process = subprocess.Popen([*command, "--output_dir", str(tmp_path / "killed")])
    deadline = time.monotonic() + 120
    while not responses.is_file() or responses.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = responses.read_bytes()
    assert 2 <= before.count(b"\n") < 40
    for name in ("killed", "whole"):
        assert main([*command[3:], "--output_dir", str(tmp_path / name)]) == 0
    assert responses.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert responses.read_bytes().count(b"\n") == 40
    killed, whole = (read_records(tmp_path / n / "records.parquet") for n in ("killed", "whole"))
    assert killed == whole


def _own(name: str) -> Path:
    from tabom.evaluation.tasks import folder

    return folder() / name


SETS = """name: sets
model: {{model_name_or_path: {model}}}
decoding: {{max_new_tokens: 32}}
verifier: {{type: accept_all}}
evaluation:
  batch_size: 1
  num_fields: 3
  sets:
    - name: sort
      role: in_domain
      tokens_per_step: [1, 4]
      prompts: {{function: "{rows}", args: {{task: sort, split: eval, num: 12}}}}
    - name: two / names
      role: out_of_domain
      tokens_per_step: [2, 1]
      decoding: {{temperature: 0.8}}
      prompts: {{function: "{rows}", args: {{task: chain, split: eval, num: 12}}}}
"""
PROMPTS_RESULTS = ("records.parquet", "trajectories.parquet", "fields.json", "evaluation.json")


def _on_disk(folder: Path) -> dict[str, set[str]]:
    """The responses of each set and speed that are safely on disk."""
    parts = sorted((folder / ".unfinished").glob("*/*"))
    return {part.relative_to(folder).as_posix(): TrajectoryWriter(part).done() for part in parts}


def test_prompt_sets_go_on_after_two_kills(random_toy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "sets.yaml"
    recipe.write_text(SETS.format(model=random_toy, rows="tabom.toyworld.tasks:prompts"))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "tabom", "evaluate", "--config", str(recipe), "--quiet"]
    seen: dict[str, set[str]] = {}
    for wanted in (5, 29):  # in the first set's first speed, with fields and without; in the second
        process = subprocess.Popen([*command, "--output_dir", str(killed)])
        while sum(map(len, _on_disk(killed).values())) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = _on_disk(killed)
        assert all(ids <= now[name] for name, ids in seen.items())
        assert wanted <= sum(map(len, now.values())) < 48
        assert read_manifest(killed) is None
        seen = now
    before = {p: p.read_bytes() for p in killed.rglob("*.arrow")}
    assert main([*command[3:], "--output_dir", str(killed), "--set", "model.dtype=bfloat16"]) != 0
    assert {p: p.read_bytes() for p in killed.rglob("*.arrow")} == before  # another's: untouched
    for folder in (killed, whole):
        assert main([*command[3:], "--output_dir", str(folder)]) == 0
        assert not (folder / ".unfinished").exists()
    for name in PROMPTS_RESULTS:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    manifests = [read_manifest(folder) for folder in (killed, whole)]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0].counts == manifests[1].counts
    assert manifests[0].files == manifests[1].files
