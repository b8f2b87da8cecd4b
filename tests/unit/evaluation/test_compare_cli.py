"""`tabom compare` on evaluations whose numbers are known, and on two runs of the toy world."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.core.atomic import write_json
from tabom.core.manifest import Mark, write_manifest
from tabom.evaluation.manifest import EVALUATION, differences
from tabom.evaluation.records import EvaluationRecord, write_records

MANIFEST = {"decoding": {"max_new_tokens": 256, "tokens_per_step": 1}, "dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of whoever runs the tests decides nothing."""
    monkeypatch.setenv("COLUMNS", "100")


def evaluation(
    folder: Path,
    results: dict[str, Sequence[int]],
    *,
    manifest: dict[str, Any] | None = None,
    samples: int = 1,
    speed: int = 1,
    forwards: int = 8,
) -> Path:
    """A folder as `tabom evaluate` leaves it. results: set -> right (1) or not, a document each."""
    one = MANIFEST if manifest is None else manifest
    decoding = one.get("decoding", {})
    kind = decoding.get("schedule", "fixed")
    schedule = "" if kind == "fixed" else f"{kind} {decoding[kind]:g}" if kind in decoding else kind
    if decoding.get("steps"):
        schedule += f", {decoding['steps']} steps"
    records = [
        EvaluationRecord(
            set=name,
            role="in_domain",
            id=f"d{i // samples}",
            sample=i % samples,
            tokens_per_step=speed,
            schedule=schedule,
            correct=right,
            reason="accepted" if right else "wrong",
            num_forwards=forwards,
            length=5,
            tokens_per_forward=16 / forwards,
            end_step=4,
        )
        for name, rights in results.items()
        for i, right in enumerate(rights)
    ]
    folder.mkdir(parents=True)
    write_records(folder / "records.parquet", records)
    write_json(folder / EVALUATION, {name: {schedule or str(speed): one} for name in results})
    mark = Mark(stage="evaluate", fingerprint="x", settings={"x": 1})
    write_manifest(folder, mark, counts={}, seconds=1.0)
    return folder


def compare(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> Any:
    capsys.readouterr()
    assert main(["compare", *map(str, arguments)]) == status
    return capsys.readouterr()


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def table(folder: Path, title: str) -> list[list[str]]:
    """Heads and rows of a table of compare.md, all of one width (S1)."""
    text = (folder / "compare.md").read_text().split(f"## {title}")[1].split("## ")[0]
    found = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert len({len(line) for line in found}) == 1
    return [found[0], *found[2:]]


def test_two_evaluations_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = evaluation(tmp_path / "No-SFT", {"math": [1, 0, 0, 0], "code": [1, 1, 1, 0]})
    arm = evaluation(tmp_path / "TABOM", {"math": [1, 1, 1, 0], "code": [0, 1, 0, 0]})
    shown = compare(capsys, base, arm, "--in_domain", "math")
    out = base / "compare"
    heads, first, second = table(out, "Accuracy")
    assert heads == [
        "arm", "seeds", "math %", "change", "In-domain %", "change", "code %", "change",
        "Out-of-domain %", "change", "Forgetting %", "interval", "Net loss %", "interval",
    ]  # fmt: skip
    assert (first[0], second[0]) == ("TABOM", "No-SFT")
    assert (first[2], first[3][:7]) == ("75.0", "+50.0 [")
    assert (first[6], first[7][:7]) == ("25.0", "-50.0 [")
    assert first[10:12] == ["50.0", ""]  # forgotten: 75 - 25; too few documents for an interval
    assert (first[12], first[13][:1]) == ("50.0", "[")
    heads, maths, code = table(out, "Set by set, against No-SFT")
    assert maths[:6] == ["TABOM", "–", "math", "4", "2", "0"]
    assert code[:6] == ["TABOM", "–", "code", "4", "0", "2"]
    assert (maths[7], maths[8]) == ("0.5", "open")
    assert "Evaluated otherwise" not in shown.out
    assert shown.err == ""
    assert f"output: {out}" in shown.out
    assert "75.0  +50.0 [" in shown.out
    found = {(r["arm"], r["against"], r["kind"], r["set"]): r for r in rows(out / "compare.csv")}
    assert float(found["TABOM", "No-SFT", "in_domain", ""]["value"]) == 0.5
    assert float(found["TABOM", "", "set", "code"]["value"]) == 0.25
    content = json.loads((out / "compare.json").read_text())
    assert [t["lost"] for t in content["tests"]] == [0, 2]
    page = (out / "compare.html").read_text()
    assert "No-SFT against TABOM" in page
    assert "Set by set, against No-SFT" in page


def test_an_interval_beside_an_exact_test_that_disagrees_is_called_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 documents 5 turn right: the interval leaves zero out, McNemar's p is 0.06."""
    base = evaluation(tmp_path / "base", {"m": [0] * 40})
    arm = evaluation(tmp_path / "arm", {"m": [1] * 5 + [0] * 35})
    shown = compare(capsys, base, arm)
    assert "not separable from base" in " ".join(shown.out.split())
    (line,) = table(base / "compare", "Set by set, against base")[1:]
    assert line[6].startswith("+12.5 [+")
    assert line[7:] == ["0.0625", "open"]
    page = (base / "compare" / "compare.html").read_text()
    assert 'class="number gain"' not in page


def test_another_manifest_warns_with_both_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"math": [1, 0], "code": [1, 0]})
    other = {"decoding": {"max_new_tokens": 512, "tokens_per_step": 1}, "dtype": "bfloat16"}
    arm = evaluation(tmp_path / "b", {"math": [1, 0], "code": [1, 0]}, manifest=other)
    shown = compare(capsys, base, arm, "--output_dir", tmp_path / "out")
    (warning,) = shown.err.splitlines()
    for fact in ("warning", "decoding.max_new_tokens", "512", "256", "math@1, code@1"):
        assert fact in warning
    assert table(tmp_path / "out", "Evaluated otherwise than the base")[1] == [
        "b", "decoding.max_new_tokens", "256", "512", "math@1, code@1",
    ]  # fmt: skip
    assert "decoding.max_new_tokens" in (tmp_path / "out" / "compare.html").read_text()
    assert not (base / "compare").exists()


def test_differences_name_what_is_absent() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": [4]}) == {
        "a.b": (1, 3),
        "a.c": (2, None),
        "d": (None, [4]),
    }
    assert differences(MANIFEST, MANIFEST) == {}


def test_samples_show_the_knowledge_boundary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "base", {"m": [1, 1, 0, 0, 0, 0]}, samples=2)
    arm = evaluation(tmp_path / "arm", {"m": [1, 1, 0, 1, 0, 0]}, samples=2)
    compare(capsys, base, arm)
    out = base / "compare"
    heads, line, _ = table(out, "pass@k")
    assert heads == ["arm", "m pass@1 %", "change", "m pass@2 %", "change"]
    assert (line[1], line[2][:5]) == ("50.0", "+16.7")
    assert (line[3], line[4][:7]) == ("66.7", "+33.3 [")
    assert table(out, "Knowledge boundary")[1] == ["arm", "–", "m", "2", "1", "0", "1", "1"]
    # The samples of a document are one document, with their mean.
    assert table(out, "Accuracy")[2][:3] == ["base", "1", "33.3"]
    (border,) = json.loads((out / "compare.json").read_text())["boundaries"]
    assert border["gained"] == ["d1"]
    err = compare(capsys, base, arm, "--k", 4, status=2).err
    assert "pass@4 needs as many samples" in err


def test_seeds_roles_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = evaluation(tmp_path / "base", {"m": [0, 0, 1, 1]})
    for i, rights in enumerate(([1, 1, 1, 1], [1, 0, 1, 1])):
        evaluation(tmp_path / f"s{i}", {"m": rights})
    compare(capsys, f"No-SFT={base}", f"TABOM={tmp_path / 's0'}",
            f"TABOM={tmp_path / 's1'}", "--base", "No-SFT")  # fmt: skip
    line = table(base / "compare", "Accuracy")[1]
    assert line[:2] == ["TABOM", "2"]
    assert (line[2], line[3][:7]) == ("87.5", "+37.5 [")
    tests = table(base / "compare", "Set by set, against No-SFT")
    assert tests[2][:6] == ["TABOM", "1", "m", "4", "1", "0"]
    assert "the base 'x' is none of the arms" in compare(capsys, base, "--base", "x", status=2).err
    err = compare(capsys, base, "--in_domain", "x", status=2).err
    assert "--in_domain names 'x'; the sets are m" in err


def test_evaluations_of_a_study_are_called_as_their_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rights = {"base": [0, 1], "seed-0/tabom": [1, 1], "seed-1/tabom": [0, 1], "seed-0/gt": [0, 0]}
    folders = [evaluation(tmp_path / n / "evaluate", {"m": r}) for n, r in rights.items()]
    compare(capsys, *folders, "--base", "base")
    lines = table(folders[0] / "compare", "Accuracy")[1:]
    assert sorted(line[:3] for line in lines) == [
        ["base", "1", "50.0"], ["gt", "1", "0.0"], ["tabom", "2", "75.0"]
    ]  # fmt: skip


def test_the_pace_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]}, forwards=16)
    shown = compare(capsys, one)
    costs = table(one / "compare", "Accuracy against pace")
    assert costs[1] == ["one", "m", "1", "1.00", "16.0", "50.0"]
    assert "McNemar" not in shown.out  # nothing to compare with


@pytest.mark.parametrize(
    ("decoding", "shown"),
    [
        ({"schedule": "threshold", "threshold": 0.9}, "threshold 0.9"),
        ({"schedule": "factor", "factor": 1.0}, "factor 1"),
        ({"schedule": "official", "steps": 8}, "official, 8 steps"),
        ({"schedule": "official", "steps": None}, "official"),
    ],
)
def test_a_threshold_is_not_called_a_token_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoding: dict[str, Any], shown: str
) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]}, forwards=16)
    two = evaluation(tmp_path / "two", {"m": [1, 1]}, manifest={"decoding": decoding}, forwards=4)
    compare(capsys, one, two)
    assert table(one / "compare", "Accuracy against pace")[1:] == [
        ["one", "m", "1", "1.00", "16.0", "50.0"],
        ["two", "m", shown, "4.00", "4.0", "100.0"],
    ]
    content = json.loads((one / "compare" / "compare.json").read_text())
    assert [cost["pace"] for cost in content["costs"]] == ["1", shown]
    assert f"{shown} a step" not in (one / "compare" / "compare.html").read_text()


def threshold(value: float) -> dict[str, Any]:
    return {"decoding": {"schedule": "threshold", "threshold": value}}


def test_tokens_a_step_and_thresholds_of_one_arm_stand_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 4: accuracy against tokens per forward, for the base and an arm."""
    given = []
    for arm, rights in (("No-SFT", [1, 0, 0, 0]), ("TABOM", [1, 1, 1, 0])):
        for name, forwards, manifest, speed in (
            ("t09", 4, threshold(0.9), 1),
            ("k1", 16, None, 1),
            ("k2", 8, None, 2),
        ):
            folder = evaluation(
                tmp_path / arm / name, {"m": rights}, manifest=manifest, speed=speed,
                forwards=forwards,
            )  # fmt: skip
            given.append(f"{arm}={folder}")
    # A threshold that the arm alone was evaluated at.
    only = evaluation(tmp_path / "only", {"m": [0, 1, 0, 0]}, manifest=threshold(0.5), forwards=2)
    out = tmp_path / "out"
    shown = compare(capsys, *given, f"TABOM={only}", "--output_dir", out)
    assert shown.err == ""  # each is compared with its like
    assert table(out, "Accuracy against pace")[1:] == [
        ["No-SFT", "m", "1", "1.00", "16.0", "25.0"],
        ["No-SFT", "m", "2", "2.00", "8.0", "25.0"],
        ["No-SFT", "m", "threshold 0.9", "4.00", "4.0", "25.0"],
        ["TABOM", "m", "1", "1.00", "16.0", "75.0"],
        ["TABOM", "m", "2", "2.00", "8.0", "75.0"],
        ["TABOM", "m", "threshold 0.9", "4.00", "4.0", "75.0"],
        ["TABOM", "m", "threshold 0.5", "8.00", "2.0", "25.0"],
    ]
    assert table(out, "Accuracy")[0][2::2] == [
        "m %", "In-domain %", "m, 2 a step %", "In-domain, 2 a step %",
        "m, threshold 0.9 %", "In-domain, threshold 0.9 %",
    ]  # fmt: skip
    tests = {line[2]: line for line in table(out, "Set by set, against No-SFT")}
    assert tests["m, threshold 0.9"][3:6] == ["4", "2", "0"]
    assert {r["pace"] for r in rows(out / "compare.csv")} == {"", "2", "threshold 0.9"}


def test_seeds_under_several_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = []
    for seed, rights in enumerate(([1, 1, 0, 0], [1, 1, 1, 1])):
        given.append(evaluation(tmp_path / f"k-{seed}", {"m": rights}, forwards=16))
        given.append(
            evaluation(
                tmp_path / f"t-{seed}", {"m": rights[::-1]}, manifest=threshold(0.9), forwards=4
            )
        )
    compare(capsys, *(f"TABOM={folder}" for folder in given))
    line = table(given[0] / "compare", "Accuracy")[1]
    assert line == ["TABOM", "2", *["75.0", ""] * 4]


def test_a_set_that_an_arm_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"m": [1, 0], "n": [1, 0]})
    arm = evaluation(tmp_path / "b", {"m": [1, 0]})
    err = compare(capsys, base, arm, status=2).err
    assert "arm 'b': not evaluated on set 'n'" in err
    assert "seed None" not in err


def test_what_the_held_out_check_found_is_an_alarm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"m": [1, 0]})
    check = {"note": "Held-out check: 1 occurs.", "name": "m", "num_evaluation": 2,
             "num_exact": 1, "num_near": 0}  # fmt: skip
    arm = evaluation(tmp_path / "b", {"m": [1, 0]}, manifest={**MANIFEST, "held_out": check})
    shown = compare(capsys, base, arm)
    assert table(base / "compare", "Held out")[1] == ["b", "Held-out check: 1 occurs."]
    assert shown.out.startswith("Not held out: 1 of 2 prompts of m occur in what b trained on")
    assert shown.err == ""  # no difference in how it was evaluated
    page = (base / "compare" / "compare.html").read_text()
    assert page.index("Not held out: 1 of 2 prompts") < page.index('class="headline"')


def test_wrong_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("no", "empty"):
        err = compare(capsys, tmp_path / name, status=2).err
        assert str(tmp_path / name) in err
        assert "finished `tabom evaluate`" in err
    base = evaluation(tmp_path / "a", {"m": [1, 0]})
    arm = evaluation(tmp_path / "b", {"m": [1, 0, 1]})
    assert "other documents than the base" in compare(capsys, base, arm, status=2).err
    assert not (base / "compare").exists()


def test_a_folder_counts_once_and_broken_manifests_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]})
    assert "is given twice" in compare(capsys, f"A={one}", f"A={one}", status=2).err
    assert "one is given twice;" in compare(capsys, one, one, status=2).err
    compare(capsys, f"A={one}", f"B={one}")
    assert table(one / "compare", "Accuracy")[2][:2] == ["B", "1"]
    for content in ([], {"m": {"1": 3}}, {"m": 3}):
        write_json(one / EVALUATION, content)
        assert str(one / EVALUATION) in compare(capsys, one, status=2).err


@pytest.mark.slow
def test_many_records_take_little_memory_and_a_small_page(tmp_path: Path) -> None:
    """100,000 records of five arms: under a gigabyte, and a page under 3 MB."""
    for arm in range(5):
        rights = [(i * 7919 + arm * 31) % 10 < 5 + (arm > 2) for i in range(10_000)]
        evaluation(tmp_path / f"arm{arm}", {"m": rights, "n": rights[::-1]})
    code = (
        "import resource, sys; from tabom.cli.main import main; status = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", *sorted(map(str, tmp_path.glob("arm?")))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.split()[-1]) < 1_000_000  # KB
    assert (tmp_path / "arm0" / "compare" / "compare.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_two_toy_runs(
    tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, steps in (("first", 3), ("second", 2)):
        arguments = ["run", tiny_recipe, "--quiet", "--output_dir", tmp_path / name, "--set",
                     f"training.max_steps={steps}", "--set", "evaluation.num_fields=0"]  # fmt: skip
        assert main([str(a) for a in arguments]) == 0
    shown = compare(capsys, tmp_path / "first", tmp_path / "second")
    heads, *lines = table(tmp_path / "first" / "compare", "Accuracy")
    assert {line[0] for line in lines} == {
        "first: No-SFT", "first: TABOM", "second: No-SFT", "second: TABOM",
    }  # fmt: skip
    assert "In-domain, 4 a step %" in heads
    assert shown.err == ""  # all were evaluated alike
    found = json.loads((tmp_path / "first" / "base" / "evaluate" / EVALUATION).read_text())
    assert found["sort"]["4"]["batch_size"] == 8
    assert (tmp_path / "first" / "compare" / "compare.html").stat().st_size > 10_000
    # One run alone: its own untrained arm is the base.
    compare(capsys, tmp_path / "second")
    assert table(tmp_path / "second" / "compare", "Accuracy")[0]
