"""The five tasks end to end on a random tiny model: `tabom evaluate` and lm-eval's own command."""

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabom.cli.main import main
from tabom.core.manifest import read_manifest
from tabom.evaluation.benchmarks import get_benchmark, names
from tabom.evaluation.harness import folder
from tabom.evaluation.records import read_records
from tabom.evaluation.results import read_evaluated
from tabom.models.loading import load_model
from tabom.trajectory.store import TrajectoryWriter

NAMES = tuple(names())
OURS = tuple(f"{name}_tabom" for name in NAMES)

STOCK = """task: stock
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 5}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def evaluate(*arguments: Any) -> int:
    return main(["evaluate", *map(str, arguments), "--quiet"])


@pytest.fixture(scope="module")
def evaluated(tiny_dream: Path, documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    done = evaluate(
        "--model_name_or_path", tiny_dream, "--tasks", ",".join(NAMES), "--data_dir", documents,
        "--max_new_tokens", 12, "--tokens_per_step", 1, 3, "--in_domain", "gsm8k",
        "math500", "--batch_size", 4, "--output_dir", out,
    )  # fmt: skip
    assert done == 0
    return out


def test_five_benchmarks_through_tabom_evaluate(evaluated: Path, tiny_dream: Path) -> None:
    records = read_records(evaluated / "records.parquet")
    sizes = {"gsm8k": 3, "math500": 2, "humaneval": 2, "mbpp": 2, "ifeval": 2}
    for speed in (1, 3):
        own = [r for r in records if r.tokens_per_step == speed]
        assert {n: sum(r.set == n for r in own) for n in sizes} == sizes
        assert {r.tokens_per_forward for r in own} == {float(speed)}
        assert {r.num_forwards for r in own} == {12 // speed}
    assert {r.set for r in records if r.role == "in_domain"} == {"gsm8k", "math500"}
    manifest = read_manifest(evaluated)
    assert manifest is not None
    sets = {one["name"]: one for one in manifest.settings["evaluation"]["sets"]}
    assert sets["mbpp"]["decoding"] == {"max_new_tokens": 12}
    assert manifest.counts["num_responses"] == len(records) == 22
    found = json.loads((evaluated / "evaluation.json").read_text())
    assert found["mbpp"]["3"]["decoding"]["tokens_per_step"] == 3
    one = found["gsm8k"]["1"]
    assert one["data"]["file"] == "gsm8k.jsonl"
    assert {"batch_size", "dtype", "versions", "setting", "cut", "chat_template"} <= set(one)
    assert (one["unsafe_exec"], one["versions"]["math-verify"]) == (False, version("math-verify"))
    assert len({m["1"]["data"]["documents"] for m in found.values()}) == 5
    assert one["data"]["documents"] == found["gsm8k"]["3"]["data"]["documents"]
    results = json.loads((evaluated / "results.json").read_text())
    assert "exact_match,flexible-extract" in results["gsm8k"]["1"]
    assert results["ifeval"]["3"]["num_forwards"] == 4.0
    # Each record of the first pace has its trajectory beside it.
    pairs = list(read_evaluated(evaluated))
    assert len(pairs) == 11
    (first, trajectory), *_ = [pair for pair in pairs if pair[0].set == "humaneval"]
    assert first.num_forwards == trajectory.num_forwards
    tokenizer = load_model(tiny_dream).tokenizer
    assert tokenizer.decode(trajectory.prompt_ids).endswith(
        "<|im_start|>assistant\nHere is the completed function:\n```python\n"
        'def plus(a, b):\n    """Gives plus of a and b."""\n\n'
    )


def test_the_totals_are_of_the_records(evaluated: Path) -> None:
    records = read_records(evaluated / "records.parquet")
    results = json.loads((evaluated / "results.json").read_text())
    for name in NAMES:
        first, *others = get_benchmark(name).judges([])
        for pace, numbers in results[name].items():
            own = [r for r in records if r.set == name and str(r.pace) == pace]
            assert numbers[first] == pytest.approx(np.mean([r.correct for r in own]))
            for other in others:
                assert numbers[other] == pytest.approx(np.mean([r.metrics[other] for r in own]))
    assert set(results["gsm8k"]["1"]) >= {
        "exact_match,flexible-extract",
        "exact_match,strict-match",
        "tokens_per_forward",
    }
    assert {k for k in results["ifeval"]["1"] if "acc" in k} == {
        f"{level}_level_{kind}_acc,none"
        for level in ("prompt", "inst")
        for kind in ("loose", "strict")
    }


def test_complete_is_not_run_again_and_another_is_refused(
    evaluated: Path, tiny_dream: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model_name_or_path", tiny_dream, "--data_dir", documents, "--max_new_tokens", 12,
              "--tasks", *NAMES, "--in_domain", "gsm8k", "math500",
              "--output_dir", evaluated]  # fmt: skip
    before = (evaluated / "manifest.json").stat().st_mtime_ns
    # The batch size decides nothing, so it is not part of what must agree.
    assert evaluate(*common, "--tokens_per_step", 1, 3, "--batch_size", 7) == 0
    assert (evaluated / "manifest.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert evaluate(*common, "--tokens_per_step", 1) == 2
    assert "tokens_per_step" in capsys.readouterr().err


def test_samples_and_a_task_of_others(
    tiny_dream: Path, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_index(monkeypatch, tmp_path)
    (tmp_path / "stock.yaml").write_text(STOCK.format(path=documents / "gsm8k.jsonl"))
    common = ["--model_name_or_path", tiny_dream, "--data_dir", documents, "--max_new_tokens", 6]
    out = tmp_path / "samples"
    assert evaluate(*common, "--tasks", "gsm8k", "--num_samples", 3, "--temperature", 1,
                    "--num_documents", 2, "--output_dir", out) == 0  # fmt: skip
    records = read_records(out / "records.parquet")
    assert [r.sample for r in records] == [0, 1, 2] * 2
    assert len({r.id for r in records}) == 2
    assert len({r.response for r in records}) == 6
    out = tmp_path / "other"
    assert evaluate(*common, "--tasks", "stock", "--include_path", tmp_path, "--cut", "release",
                    "--chat_template", "false", "--output_dir", out) == 0  # fmt: skip
    assert {(r.set, r.correct) for r in read_records(out / "records.parquet")} == {("stock", 0)}
    assert [t.task for _, t in read_evaluated(out)] == ["stock"] * 3
    results = json.loads((out / "results.json").read_text())["stock"]["1"]
    assert (results["exact_match,none"], results["num_forwards"]) == (0, 6)
    found = json.loads((out / "evaluation.json").read_text())["stock"]["1"]
    assert (found["data"]["task"], found["decoding"]["max_new_tokens"]) == ("stock", 6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tasks", "gsm8kk"], "no task 'gsm8kk'; did you mean 'gsm8k'?; ours are gsm8k"),
        (["--tasks", "gsm8k", "--setting", "paper"], "no evaluation setting 'paper'"),
        (["--tasks", "ifeval", "--setting", "dream_paper"], "says nothing about task"),
        (["--tasks", "gsm8k", "--setting", "llada_paper", "--policy", "random"],
         "taken whole"),
        (["--tasks", "gsm8k", "--in_domain", "mbpp"], "in_domain names 'mbpp'"),
        (["--tasks", "gsm8k", "--num_samples", "2"], "several samples of one document"),
        (["--num_documents", "2", "--prompts_path", "x.jsonl"], "limit does not go with prompts"),
        (["--in_domain", "gsm8k"], "--in_domain is for tasks"),
        (["--data_dir", "x"], "nothing to evaluate on"),
    ],
)  # fmt: skip
def test_wrong_input(
    arguments: list[str],
    text: str,
    tiny_dream: Path,
    documents: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty_index(monkeypatch, tmp_path)
    if "--data_dir" not in arguments and "--tasks" in arguments:
        arguments = [*arguments, "--data_dir", str(documents)]
    assert evaluate("--model_name_or_path", tiny_dream, "--output_dir", tmp_path / "o",
                    "--tokens_per_step", 1, *arguments) == 2  # fmt: skip
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err
    assert not (tmp_path / "o" / "manifest.json").exists()


@pytest.mark.slow
def test_what_an_arm_was_trained_on_is_held_against_the_documents(
    tiny_dream: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third GSM8K row is trained on, so one document of three is not held out."""
    rows = (documents / "gsm8k.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text(rows[2] + "\n" + json.dumps({"question": "Why?"}) + "\n")
    model = ["--model_name_or_path", str(tiny_dream), "--quiet"]
    for arguments in (
        ["collect", "--prompts_path", "train.jsonl", "--max_new_tokens", "4"],
        ["verify", "--trajectories", "collect", "--verifier", "accept_all"],
        ["train", "--trajectories", "collect", "--verdicts", "verify",
         "--objective", "trajectory_ce", "--max_steps", "1", "--per_device_train_batch_size", "1"],
    ):  # fmt: skip
        own = [str(tmp_path / a) if a in ("train.jsonl", "collect", "verify") and i else a
               for i, a in enumerate(arguments)]  # fmt: skip
        assert main([*own, *model, "--output_dir", str(tmp_path / arguments[0])]) == 0
    capsys.readouterr()
    common = ["--model_name_or_path", tiny_dream, "--tasks", "gsm8k", "--data_dir", documents,
              "--max_new_tokens", 4]  # fmt: skip
    assert evaluate(*common, "--output_dir", tmp_path / "base") == 0
    assert "Held-out" not in capsys.readouterr().out
    assert evaluate(*common, "--trained", tmp_path / "train", "--output_dir", tmp_path / "arm") == 0
    note = "Held-out check: of the 3 prompts of gsm8k, 1 occur and 0 more overlap"
    assert note in capsys.readouterr().out
    found = json.loads((tmp_path / "arm" / "evaluation.json").read_text())
    ((evaluated, _),) = found["gsm8k"]["1"]["held_out"]["exact"]
    assert evaluated == 2
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "arm")]) == 0
    assert note in capsys.readouterr().out


# -- lm-eval's own command line -------------------------------------------------------------------


def empty_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lm-eval reads 14,000 task files of its own at every start, ten seconds; none are needed."""
    from lm_eval.tasks import manager

    (tmp_path / "none").mkdir(exist_ok=True)
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "none" / "manager.py"))


def test_five_tasks_through_our_door_to_lm_eval(
    tiny_dream: Path,
    documents: Path,
    evaluated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tabom.evaluation.harness.__main__ import main as door

    empty_index(monkeypatch, tmp_path)
    responses = tmp_path / "responses"
    arguments = [
        "run", "--model", "tabom", "--model_args",
        f"pretrained={tiny_dream},max_new_tokens=12,tokens_per_step=3,responses={responses}",
        "--metadata", f"data_dir={documents}", "--tasks", ",".join(OURS), "--batch_size", "4",
        "--apply_chat_template", "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm-eval", *arguments])
    assert door() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in OURS)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    # The same responses as `tabom evaluate` decoded, and the same numbers.
    ours = json.loads((evaluated / "results.json").read_text())
    for name in NAMES:
        theirs = results["results"][f"{name}_tabom"]
        published = {k: v for k, v in ours[name]["3"].items() if "," in k}
        assert len(published) >= 1
        for key, value in published.items():
            assert theirs[key] == pytest.approx(value), (name, key)
    assert results["config"]["tabom"]["mbpp_tabom"]["decoding"]["tokens_per_step"] == 3
    kept = [one for folder in responses.iterdir() for one in TrajectoryWriter(folder).kept()]
    assert len(kept) == 11


@pytest.mark.slow
def test_a_task_named_by_its_file_makes_lm_eval_know_the_model(
    tiny_dream: Path, documents: Path, tmp_path: Path
) -> None:
    tasks = ",".join(str(folder() / f"{name}.yaml") for name in OURS)
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "tabom", "--model_args",
        f"pretrained={tiny_dream},max_new_tokens=8,data_dir={documents}", "--tasks", tasks,
        "--apply_chat_template", "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    for name in OURS:
        assert name in done.stdout


@pytest.mark.slow
def test_lm_eval_as_two_processes_finds_what_one_finds(
    tiny_dream: Path, documents: Path, tmp_path: Path
) -> None:
    """Three documents: one process has two, and the other gets its own a second time."""
    found = []
    for number in (1, 2):
        out = tmp_path / str(number)
        command = [
            sys.executable, "-m", "tabom.evaluation.harness", "run", "--model", "tabom",
            "--model_args", f"pretrained={tiny_dream},max_new_tokens=8,temperature=0.5,seed=3",
            "--metadata", f"data_dir={documents}", "--tasks", "gsm8k_tabom,math500_tabom",
            "--batch_size", "1", "--device", "cpu", "--output_path", str(out), "--log_samples",
        ]  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        ranks = [
            subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank),
                     "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            )
            for rank in range(number)
        ]  # fmt: skip
        for rank in ranks:
            said, _ = rank.communicate()
            assert rank.returncode == 0, said
        (path,) = out.rglob("results_*.json")
        results = json.loads(path.read_text())
        samples = sorted(  # lm-eval writes those of one process behind the other's
            # A document that fills a process up has its answer twice, and counts once.
            (row["doc_id"], row["filter"], [one[:1] for one in row["filtered_resps"]])
            for log in out.rglob("samples_*.jsonl")
            for row in map(json.loads, log.read_text().splitlines())
        )
        found.append((results["results"], results["config"]["tabom_decoding"], samples))
    assert found[0] == found[1]


# -- lm-eval's own tasks ---------------------------------------------------------------------------

TWO_FILTERS = """task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{train: {path}, test: {path}}}}}
test_split: test
fewshot_split: train
num_fewshot: 2
description: "Add.\\n\\n"
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer.split('####')[-1]}}}}"
generation_kwargs: {{until: ["z"], max_gen_toks: 8}}
filter_list:
  - name: any
    filter:
      - {{function: regex, regex_pattern: "([a-z]+)", group_select: 0}}
      - {{function: take_first}}
  - name: first
    filter:
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3.0}}
"""


def test_a_task_of_lm_evals_asks_and_scores_as_lm_eval_does(
    tiny_dream: Path, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.tasks import TaskManager

    from tabom.evaluation.harness.model import TabomLM

    empty_index(monkeypatch, tmp_path)
    rows = [{"question": f"{n}+{n}?", "answer": f"#### {2 * n}"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TWO_FILTERS.format(path=tmp_path / "rows.jsonl"))
    arguments = ["--model_name_or_path", tiny_dream, "--tasks", "sums", "--include_path", tmp_path,
                 "--output_dir", tmp_path / "ours"]  # fmt: skip
    assert evaluate(*arguments) == 0
    loaded = TaskManager(include_path=str(tmp_path), include_defaults=False).load(["sums"])
    loaded["tasks"]["sums"].set_fewshot_seed(1234)
    lm = TabomLM(model=load_model(tiny_dream))
    theirs = lm_evaluate(
        lm, loaded, apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0
    )
    pairs = list(read_evaluated(tmp_path / "ours"))
    assert len(pairs) == 12
    for number, (record, trajectory) in enumerate(pairs):
        there = lm.responses["sums", number, 0]
        assert trajectory.prompt_ids.tolist() == there.prompt_ids.tolist()
        assert trajectory.response_ids_N.tolist() == there.response_ids_N.tolist()
        assert record.length <= 8
    ours = json.loads((tmp_path / "ours" / "results.json").read_text())["sums"]["1"]
    for name in ("any", "first"):
        assert ours[f"exact_match,{name}"] == theirs["results"]["sums"][f"exact_match,{name}"]
    found = json.loads((tmp_path / "ours" / "evaluation.json").read_text())["sums"]["1"]
    assert found["data"]["task_version"] == 3.0


def test_a_benchmark_of_ones_own_is_one_file(tiny_dream: Path, tmp_path: Path) -> None:
    rows = [{"country": "Peru", "capital": "Lima"}, {"country": "Chad", "capital": "N'Djamena"}]
    (tmp_path / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate("--model_name_or_path", tiny_dream, "--tasks", "capitals:BENCHMARK",
                    "--data_dir", tmp_path, "--output_dir", tmp_path / "out") == 0  # fmt: skip
    pairs = list(read_evaluated(tmp_path / "out"))
    assert [(t.num_slots, t.reference) for _, t in pairs] == [(6, "Lima"), (6, "N'Djamena")]
    assert pairs[0][1].prompt == "What is the capital of Peru?"
    assert {r.reason for r, _ in pairs} <= {"wrong", "no_answer", "truncated"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["capitals"]["1"]["exact"] == 0.0
