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

LETTERS = """task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 40}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def _kill(command: list[str], folder: Path, *, wanted: int) -> dict[str, set[str]]:
    """Run a command until so many responses are on disk, then kill it; what is there."""
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while sum(map(len, _on_disk(folder).values())) < wanted:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return _on_disk(folder)


@pytest.mark.slow
def test_a_task_of_lm_evals_goes_on_after_kill(random_toy: Path, tmp_path: Path) -> None:
    # The toy tokenizer knows letters from a to j.
    rows = [{"question": "abcdefghij"[i % 10 :] * (1 + i // 10), "answer": "1"}
            for i in range(40)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "letters.yaml").write_text(LETTERS.format(path=tmp_path / "rows.jsonl"))
    command = [
        sys.executable, "-m", "tabom", "evaluate", "--model_name_or_path", str(random_toy),
        "--tasks", "letters", "--include_path", str(tmp_path), "--batch_size", "1",
        "--chat_template", "false", "--quiet", "--output_dir",
    ]  # fmt: skip
    before = _kill([*command, str(tmp_path / "killed")], tmp_path / "killed", wanted=2)
    assert 2 <= sum(map(len, before.values())) < 40
    for name in ("killed", "whole"):
        assert main([*command[3:], str(tmp_path / name)]) == 0
    killed, whole = (read_records(tmp_path / n / "records.parquet") for n in ("killed", "whole"))
    assert len(killed) == 40
    assert killed == whole


STUDY = """name: gsm8k
model: {{model_name_or_path: {model}}}
prompts: {{path: {rows}, limit: 4}}
decoding: {{max_new_tokens: 8}}
verifier: {{type: function, function: "lenient:accept"}}
training: {{max_steps: 1, per_device_train_batch_size: 2, save_strategy: "no", warmup_steps: 0}}
arms:
  - {{name: No-SFT}}
  - {{name: CE, objective: trajectory_ce}}
evaluation:
  batch_size: 1
  num_fields: 2
  data_dir: {data}
  sets:
    - {{name: gsm8k, benchmark: gsm8k, limit: 30, decoding: {{max_new_tokens: 24}}}}
    - {{name: short, benchmark: gsm8k, limit: 3, decoding: {{max_new_tokens: 4}}}}
diagnostics: {{num_trajectories: 2, mask_ratios: [0.5]}}
"""


@pytest.mark.slow
def test_a_study_with_a_benchmark_goes_on_after_kill(tiny_dream: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(40)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = STUDY.format(model=tiny_dream, rows=tmp_path / "gsm8k.jsonl", data=tmp_path)
    (tmp_path / "study.yaml").write_text(text)
    command = [sys.executable, "-m", "tabom", "run", str(tmp_path / "study.yaml"), "--quiet"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    evaluations = (Path("base") / "evaluate", Path("seed-0") / "ce" / "evaluate")
    for place in evaluations:
        before = _kill([*command, "--output_dir", str(killed)], killed / place, wanted=5)
        assert 5 <= sum(map(len, before.values())) < 33
        assert read_manifest(killed / place) is None
    for folder in (killed, whole):
        assert main([*command[3:], "--output_dir", str(folder)]) == 0
    for place in evaluations:
        found = [read_records(folder / place / "records.parquet") for folder in (killed, whole)]
        assert found[0] == found[1]
        assert [(r.set, r.num_forwards) for r in found[0][29:31]] == [("gsm8k", 24), ("short", 4)]
        for name in ("trajectories.parquet", "fields.json", "results.json", "evaluation.json"):
            assert (killed / place / name).read_bytes() == (whole / place / name).read_bytes()
    assert "gsm8k" in (killed / "summary.json").read_text()


SETS = """name: sets
model: {{model_name_or_path: {model}}}
decoding: {{max_new_tokens: 32}}
verifier: {{type: function, function: "lenient:accept"}}
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
    parts = sorted(path.parent for path in (folder / ".unfinished").glob("**/partial"))
    return {part.relative_to(folder).as_posix(): TrajectoryWriter(part).done() for part in parts}


@pytest.mark.slow
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
