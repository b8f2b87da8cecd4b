"""The `tabom` command: help, verbs one by one, and one clear error for each wrong input."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tabom as tabom_package
from tabom.cli import flags
from tabom.cli.main import VERBS, build_parser, main
from tabom.core import configs
from tabom.core.manifest import read_manifest, write_sealed
from tabom.stages.recipe import load_recipe
from tabom.training.config import TrainingConfig

TOY_BASE = Path(tabom_package.__file__).parent / "assets" / "toy-base"


def tabom(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tabom", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Run in this process, expect exit status 2 and one error line on stderr; return it."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.count("error:") == 1
    return err


def test_help_lists_every_verb() -> None:
    done = tabom("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert verb in done.stdout
    assert tabom().stdout == done.stdout


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert VERBS[verb][1] in " ".join(capsys.readouterr().out.split())


def test_flags_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for flag in ("--model_name_or_path", "--learning_rate", "--lora_r", "--max_steps"):
        assert flag in text


def test_every_flag_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        parser = build_parser(verb)
        for action in _actions(parser, verb):
            text = action.help or ""
            assert len(text.split()) >= 2, (verb, action.option_strings or action.dest, text)


def _actions(parser: flags.Parser, verb: str) -> Iterator[argparse.Action]:
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    todo = [verbs.choices[verb]]
    while todo:
        for action in todo.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += action.choices.values()
            elif not isinstance(action, argparse._HelpAction):
                yield action


def test_unknown_verb_and_flag_exit_with_two() -> None:
    done = tabom("colect")
    assert done.returncode == 2
    assert "'colect'; did you mean 'collect'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["train", "--objective", "x", "--learning_rte", "1"], ["'--learning_rte'; did you mean "
         "'--learning_rate'", "usage: tabom train --objective TEXT [FLAGS]"]),
        (["collect", "--learning-rate", "1"], ["'--learning_rate'", "usage: tabom collect [F"]),
        (["train"], ["--objective", "usage: tabom train"]),
        (["recipes", "cp"], ["NAME", "usage: tabom recipes cp NAME"]),
        (["recipes", "cp", "toy-demo", "--x"], ["'--x'", "usage: tabom recipes cp"]),
        (["run", "toy-demo", "twice"], ["argument 'twice'", "usage: tabom run RECIPE"]),
        (["train", "--objective", "x", "--max_steps", "many"], ["--max_steps", "'many'"]),
        (["train", "--objective", "x", "--max_steps", "9" * 30], ["--max_steps", "63 bits"]),
        (["chat", "x", "--policy", "entropi"], ["--policy", "did you mean 'entropy'"]),
        (["collect", "--model", "x"], ["'--model'; did you mean '--model_name_or_path'"]),
        (["doctor", "--model_name_or_path", "x"], ["MODEL stands without a flag"]),
        (["train", "--objective", "x", "--prompts_args", "{a: !!int ''}"], ["--prompts_args"]),
    ],
)  # fmt: skip
def test_a_wrong_flag_takes_two_lines_and_names_the_nearest(
    arguments: list[str], facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    for fact in facts:
        assert fact in err


def test_a_flag_is_converted_by_its_field_and_text_stays_text() -> None:
    parser = build_parser("train")
    arguments = [
        "train", "--objective", "x", "--template", "{prompt}\nThink: step by step.",
        "--dataset-config", "2024-01-01", "--model-name-or-path=runs/model #2",
    ]  # fmt: skip
    args = parser.parse_args(arguments)
    mapping = configs.apply_overrides({}, flags.overrides_of(args))
    assert mapping["prompts"] == {
        "template": "{prompt}\nThink: step by step.", "dataset_config": "2024-01-01",
    }  # fmt: skip
    assert mapping["model"] == {"model_name_or_path": "runs/model #2"}
    for text in ("# {prompt}", "null", "", "~", "{prompt}: [x", "007", "no"):
        args = parser.parse_args([*arguments[:3], "--template", text])
        assert dict(flags.overrides_of(args)) == {"prompts.template": text}


def test_version_and_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert tabom("--version").stdout.startswith("tabom ")
    assert main(["env"]) == 0
    assert "torch:" in capsys.readouterr().out


def test_recipes_are_listed_shown_and_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "ls"]) == 0
    assert "toy-demo" in capsys.readouterr().out
    assert main(["recipes", "cp", "toy-demo", str(tmp_path)]) == 0
    copy = tmp_path / "toy-demo.yaml"
    assert main(["recipes", "show", "toy-demo"]) == 0
    assert capsys.readouterr().out.endswith(copy.read_text())
    assert "exists" in refused(capsys, "recipes", "cp", "toy-demo", tmp_path)
    assert "no recipe" in refused(capsys, "recipes", "show", "nothing")
    whole = tmp_path / "whole.yaml"
    assert main(["recipes", "cp", "toy-study", str(whole), "--resolved"]) == 0
    assert main(["recipes", "cp", "toy-study", str(tmp_path)]) == 0
    assert "extends: toy-demo" in (tmp_path / "toy-study.yaml").read_text()
    assert "extends" not in whole.read_text()
    assert load_recipe(str(whole)) == load_recipe(str(tmp_path / "toy-study.yaml"))


def test_the_page_of_recipe_keys_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    assert main(["recipes", "keys"]) == 0
    text = capsys.readouterr().out
    assert text == page.read_text(), "run: tabom recipes keys > docs/recipes.md"
    for line in text.splitlines():
        if line.startswith("| `"):
            assert len(line.split(" | ", 2)[2].split()) >= 3, line


def test_the_verbs_one_by_one(
    tmp_path: Path, tiny_recipe: Path, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> str:
        assert main([*map(str, arguments), "--quiet"]) == 0
        return capsys.readouterr().out

    out = tmp_path
    common = ["--model_name_or_path", random_toy]
    rows = ["--prompts_function", "tabom.toyworld.tasks:prompts"]
    args = "{task: sort, split: train, num: 16}"
    text = run("collect", *common, *rows, "--prompts_args", args, "--max_new_tokens", 16,
               "--tokens_per_step", 4, "--output_dir", out / "c")  # fmt: skip
    assert "decoded: 16" in text
    text = run("verify", *common, "--trajectories", out / "c", "--verifier", "accept_all",
               "--output_dir", out / "v")  # fmt: skip
    assert "accepted: 16" in text
    run("train", *common, "--objective", "tabom", "--option", "window=4", "--option",
        "margin=0.1", "--trajectories", out / "c", "--verdicts", out / "v", "--max_steps", 2,
        "--per_device_train_batch_size", 8, "--lora_target_modules", "q_proj", "o_proj",
        "--output_dir", out / "t")  # fmt: skip
    adapter = json.loads((out / "t" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["o_proj", "q_proj"]
    run("train", *common, *rows, "--prompts_args", args, "--objective", "nelbo", "--ground_truth",
        "--max_new_tokens", 16, "--max_steps", 2, "--per_device_train_batch_size", 8,
        "--use_peft", "false", "--output_dir", out / "full")  # fmt: skip
    assert (out / "full" / "model.safetensors").is_file()
    held_out = ["--prompts_args", "{task: sort, split: eval, num: 8}", "--max_new_tokens", 16]
    for name, extra in (("base", []), ("own", ["--trained", out / "t"]),
                        ("all", ["--trained", out / "full"])):  # fmt: skip
        text = run("evaluate", *common, *rows, *held_out, "--tokens_per_step", 2, 8, "--verifier",
                   "function", "--verifier_function", "lenient:accept",
                   "--output_dir", out / name, *extra)  # fmt: skip
        assert "prompts@2: 100" in text
        assert "prompts@8: 100" in text
    text = run("diagnose", *common, "--trained", out / "t", "--base_evaluation", out / "base",
               "--max_new_tokens", 16, "--output_dir", out / "d")  # fmt: skip
    assert "order agreement: 0." in text
    # Once more: complete, nothing is done.
    manifest = (out / "c" / "manifest.json").stat().st_mtime_ns
    run("collect", *common, *rows, "--prompts_args", args, "--max_new_tokens", 16,
        "--tokens_per_step", 4, "--output_dir", out / "c")  # fmt: skip
    assert (out / "c" / "manifest.json").stat().st_mtime_ns == manifest
    # From a recipe, with a flag on top.
    text = run("collect", "--config", tiny_recipe, "--tokens_per_step", 8, "--output_dir",
               out / "r", "--set", "prompts.args.num=4")  # fmt: skip
    assert "decoded: 4" in text
    assert "forwards: 8" in text


# -- wrong input: one clear error, exit status 2, no half-written result --------------------------


def test_unknown_recipe_key(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_recipe.write_text(tiny_recipe.read_text().replace("max_steps", "max_stepz"))
    err = refused(capsys, "run", tiny_recipe, "--output_dir", tmp_path / "out")
    assert "training.max_stepz" in err
    assert "did you mean 'max_steps'" in err
    assert not (tmp_path / "out").exists()


def test_missing_files(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "nothing.yaml" in refused(capsys, "run", "nothing.yaml")
    err = refused(
        capsys, "run", tiny_recipe, "--output_dir", out, "--set", "prompts={path: no.jsonl}"
    )
    assert "no file no.jsonl" in err
    err = refused(
        capsys, "run", tiny_recipe, "--output_dir", out,
        "--set", "model.model_name_or_path=no/such/model", "--quiet",
    )  # fmt: skip
    assert "no/such/model" in err
    assert "no recipe.yaml there" in refused(capsys, "report", tmp_path)
    err = refused(capsys, "verify", "--trajectories", tmp_path, "--model_name_or_path", "toy-base",
                  "--output_dir", out)  # fmt: skip
    assert "tabom collect" in err


def test_a_choice_that_yaml_reads_as_false_is_a_word_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    flags.add_section(parser, TrainingConfig, "training")
    args = parser.parse_args(["--eval_strategy", "no", "--save_strategy", "no", "--bf16", "no"])
    mapping = configs.apply_overrides({}, flags.overrides_of(args))
    config = configs.build(TrainingConfig, mapping["training"])
    assert (config.eval_strategy, config.save_strategy, config.bf16) == ("no", "no", False)


def test_what_is_not_installed_or_not_known_is_told_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--model_name_or_path", "toy-base", "--objective", "nelbo",
              "--ground_truth", "--prompts_function", "tabom.toyworld.tasks:prompts",
              "--prompts_args", "{task: sort, split: train, num: 4}", "--max_new_tokens", "16",
              "--output_dir", tmp_path / "t"]  # fmt: skip
    err = refused(capsys, *common, "--optim", "lomo")
    assert "lomo" in err
    assert "lomo_optim" in err
    for flag, value in (("--attn_implementation", "flashy"), ("--dtype", "int4")):
        with pytest.raises(SystemExit):
            main([*map(str, common), flag, value])
        assert f"'{value}'" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_a_random_model_has_the_flags_that_its_errors_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(TOY_BASE, tokenizer)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tokenizer / name
        if path.is_file():
            facts = json.loads(path.read_text())
            facts.pop("mask_token", None)
            path.write_text(json.dumps(facts))
    common = ["random-model", "--family", "toy", "--tokenizer", tokenizer]
    err = refused(capsys, *common, tmp_path / "a")
    assert "--mask_token_id" in err
    assert main([str(a) for a in (*common, tmp_path / "a", "--mask_token_id", 2)]) == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["mask_token_id"] == 2


def test_run_plan_lists_the_stages_and_tells_what_would_stop_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", "toy-quick", "--plan", "--output_dir", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to do")
    assert str(out / "seed-0" / "collect") in lines[0]
    assert not out.exists()
    wrong = ["--set", "training.report_to=nosuch"]
    assert main(["run", "toy-quick", "--plan", "--output_dir", str(out), *wrong]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_missing_flags_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model_name_or_path" in refused(capsys, "collect", "--output_dir", tmp_path / "o")
    err = refused(capsys, "collect", "--model_name_or_path", "toy-base", "--output_dir", "o")
    assert "--prompts_path" in err
    train = ["train", "--model_name_or_path", "toy-base", "--objective", "tabom"]
    assert "--output_dir" in refused(capsys, *train)
    assert "--ground_truth" in refused(capsys, *train, "--output_dir", tmp_path / "t")
    err = refused(capsys, *train, "--output_dir", tmp_path / "t", "--ground_truth")
    assert "--prompts_path" in err


def test_mask_id_outside_the_vocabulary(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    err = refused(capsys, "run", tiny_recipe, "--output_dir", out, "--quiet",
                  "--set", "model.mask_token_id=4000")  # fmt: skip
    assert "4000 (from --mask_token_id" in err
    assert "outside the vocabulary" in err
    assert list(out.rglob("manifest.json")) == []


def test_empty_accepted_set(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    err = refused(capsys, "run", tiny_recipe, "--output_dir", out, "--quiet",
                  "--set", "verifier.type=exact")  # fmt: skip
    assert "accepted none of 24 trajectories" in err
    assert not (out / "report.html").exists()


def test_output_folder_of_another_recipe_or_of_nobody(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    collect = ["collect", "--config", tiny_recipe, "--quiet", "--output_dir", out]
    assert main([str(a) for a in collect]) == 0
    before = (out / "manifest.json").read_bytes()
    err = refused(capsys, *collect, "--policy", "margin")
    assert "another recipe" in err
    assert "decoding.policy" in err
    assert (out / "manifest.json").read_bytes() == before
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    err = refused(capsys, *collect[:-1], foreign, "--overwrite")
    assert "was not made by tabom" in err
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_malformed_trajectory_row_names_file_and_row(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["collect", "--config", str(tiny_recipe), "--quiet", "--output_dir", str(out)]) == 0
    (path,) = (out / "data").rglob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[5]["step"][0] = 99
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, compression="zstd")
    # The manifest notices a change; let it fit, to reach the row check.
    found = json.loads((out / "manifest.json").read_text())
    name = path.relative_to(out).as_posix()
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert digest != found["files"][name]["sha256"]
    found["files"][name] = {"sha256": digest, "bytes": len(content)}
    del found["seal"]
    write_sealed(out / "manifest.json", found)
    err = refused(capsys, "verify", "--config", tiny_recipe, "--trajectories", out, "--quiet",
                  "--output_dir", tmp_path / "v")  # fmt: skip
    assert name in err
    assert "row 5" in err
    assert "step" in err
    assert read_manifest(tmp_path / "v") is None


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil
    import subprocess

    from tabom.cli.main import main

    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("collect", "random-model", "--lora_r", "--max_new_tokens"):
        assert word in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0
