"""The five tasks end to end on a random tiny model: `tabom evaluate` and lm-eval's own command."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.core.manifest import read_manifest
from tabom.evaluation.records import read_records
from tabom.evaluation.tasks import NAMES, folder

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
        "--max_new_tokens", 12, "--tokens_per_step", 1, 3, "--in_domain", "gsm8k_tabom",
        "math500_tabom", "--batch_size", 4, "--output_dir", out,
    )  # fmt: skip
    assert done == 0
    return out


def test_five_tasks_through_tabom_evaluate(evaluated: Path) -> None:
    records = read_records(evaluated / "records.parquet")
    sizes = {"gsm8k_tabom": 3, "math500_tabom": 2, "humaneval_tabom": 2, "mbpp_tabom": 2,
             "ifeval_tabom": 2}  # fmt: skip
    for speed in (1, 3):
        own = [r for r in records if r.tokens_per_step == speed]
        assert {n: sum(r.set == n for r in own) for n in sizes} == sizes
        assert {r.tokens_per_forward for r in own} == {float(speed)}
        assert {r.num_forwards for r in own} == {12 // speed}
    assert {r.set for r in records if r.role == "in_domain"} == {"gsm8k_tabom", "math500_tabom"}
    manifest = read_manifest(evaluated)
    assert manifest is not None
    assert manifest.settings["decoding"] == {"max_new_tokens": 12}
    assert manifest.counts["num_responses"] == len(records) == 22
    found = json.loads((evaluated / "evaluation.json").read_text())
    assert found["mbpp_tabom"]["3"]["decoding"]["tokens_per_step"] == 3
    one = found["gsm8k_tabom"]["1"]
    assert one["data"]["file"] == "gsm8k.jsonl"
    assert {"batch_size", "dtype", "versions", "setting", "cut", "lm_eval"} <= set(one)
    assert (one["unsafe_exec"], one["versions"]["math-verify"]) == (False, version("math-verify"))
    assert len({m["1"]["data"]["documents"] for m in found.values()}) == 5
    assert one["data"]["documents"] == found["gsm8k_tabom"]["3"]["data"]["documents"]
    results = json.loads((evaluated / "results.json").read_text())
    assert "exact_match,flexible-extract" in results["1"]["results"]["gsm8k_tabom"]
    assert results["3"]["decoding"]["ifeval_tabom"]["num_forwards"] == 4.0
    rows = (evaluated / "samples_humaneval_tabom@1.jsonl").read_text().splitlines()
    prompt = json.loads(rows[0])["arguments"][0][0]
    assert prompt.endswith(
        "<|im_start|>assistant\nHere is the completed function:\n```python\n"
        'def plus(a, b):\n    """Gives plus of a and b."""\n\n'
    )


def test_the_records_say_what_lm_eval_says(evaluated: Path) -> None:
    records = read_records(evaluated / "records.parquet")
    results = json.loads((evaluated / "results.json").read_text())
    primary = {
        "gsm8k_tabom": "exact_match,flexible-extract",
        "math500_tabom": "math_verify,none",
        "humaneval_tabom": "pass@1,create_test",
        "mbpp_tabom": "pass_at_1,none",
        "ifeval_tabom": "prompt_level_loose_acc,none",
    }
    for speed, numbers in results.items():
        for task, key in primary.items():
            own = [r.correct for r in records if r.set == task and r.tokens_per_step == int(speed)]
            assert numbers["results"][task][key] == pytest.approx(sum(own) / len(own))


def test_complete_is_not_run_again_and_another_is_refused(
    evaluated: Path, tiny_dream: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model_name_or_path", tiny_dream, "--data_dir", documents, "--max_new_tokens", 12,
              "--tasks", *NAMES, "--in_domain", "gsm8k_tabom", "math500_tabom",
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
    assert evaluate(*common, "--tasks", "gsm8k_tabom", "--num_samples", 3, "--temperature", 1,
                    "--num_documents", 2, "--output_dir", out) == 0  # fmt: skip
    records = read_records(out / "records.parquet")
    assert [r.id.partition("#")[2] for r in records] == ["", "1", "2"] * 2
    assert len({r.response for r in records}) == 6
    out = tmp_path / "other"
    assert evaluate(*common, "--tasks", "stock", "--include_path", tmp_path, "--cut", "release",
                    "--no_chat_template", "--output_dir", out) == 0  # fmt: skip
    assert {(r.set, r.correct) for r in read_records(out / "records.parquet")} == {("stock", 0)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tasks", "gsm8k_taboom"], "no task 'gsm8k_taboom'; ours are gsm8k_tabom"),
        (["--tasks", "gsm8k_tabom", "--setting", "paper"], "no evaluation setting 'paper'"),
        (["--tasks", "ifeval_tabom", "--setting", "dream_paper"], "says nothing about task"),
        (["--tasks", "gsm8k_tabom", "--setting", "llada_paper", "--policy", "random"],
         "taken whole"),
        (["--tasks", "gsm8k_tabom", "--in_domain", "mbpp_tabom"], "in_domain names 'mbpp_tabom'"),
        (["--data_dir", "x"], "--data_dir is for tasks"),
        (["--num_samples", "2"], "--num_samples is for tasks"),
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
    common = ["--model_name_or_path", tiny_dream, "--tasks", "gsm8k_tabom", "--data_dir", documents,
              "--max_new_tokens", 4]  # fmt: skip
    assert evaluate(*common, "--output_dir", tmp_path / "base") == 0
    assert "Held-out" not in capsys.readouterr().out
    assert evaluate(*common, "--trained", tmp_path / "train", "--output_dir", tmp_path / "arm") == 0
    note = "Held-out check: of the 3 prompts of gsm8k_tabom, 1 occur and 0 more overlap"
    assert note in capsys.readouterr().out
    found = json.loads((tmp_path / "arm" / "evaluation.json").read_text())
    ((evaluated, _),) = found["gsm8k_tabom"]["1"]["held_out"]["exact"]
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
    responses = tmp_path / "responses.jsonl"
    arguments = [
        "run", "--model", "tabom", "--model_args",
        f"pretrained={tiny_dream},max_new_tokens=12,tokens_per_step=3,responses={responses}",
        "--metadata", f"data_dir={documents}", "--tasks", ",".join(NAMES), "--batch_size", "4",
        "--apply_chat_template", "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm-eval", *arguments])
    assert door() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    # The same responses as `tabom evaluate` decoded, and the same numbers.
    ours = json.loads((evaluated / "results.json").read_text())["3"]["results"]
    for name in NAMES:
        for key, value in ours[name].items():
            if "," in key and "stderr" not in key:
                assert results["results"][name][key] == pytest.approx(value), (name, key)
    assert results["config"]["tabom"]["mbpp_tabom"]["decoding"]["tokens_per_step"] == 3
    stored = {json.loads(line)["id"] for line in responses.read_text().splitlines()}
    theirs = [json.loads(x) for x in (evaluated / "responses.jsonl").read_text().splitlines()]
    assert stored == {row["id"] for row in theirs}


@pytest.mark.slow
def test_a_task_named_by_its_file_makes_lm_eval_know_the_model(
    tiny_dream: Path, documents: Path, tmp_path: Path
) -> None:
    tasks = ",".join(str(folder() / f"{name}.yaml") for name in NAMES)
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "tabom", "--model_args",
        f"pretrained={tiny_dream},max_new_tokens=8,data_dir={documents}", "--tasks", tasks,
        "--apply_chat_template", "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert name in done.stdout
