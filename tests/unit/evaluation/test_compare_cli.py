"""`tabom compare` on evaluations whose numbers are known, and on two runs of the toy world."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.core.atomic import write_json
from tabom.core.manifest import write_manifest
from tabom.evaluation.manifest import EVALUATION, differences
from tabom.evaluation.records import EvaluationRecord, write_records

MANIFEST = {"decoding": {"max_new_tokens": 256, "tokens_per_step": 1}, "dtype": "bfloat16"}


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
    records = [
        EvaluationRecord(
            set=name,
            role="in_domain",
            id=f"d{i // samples}" + (f"#{i % samples}" if i % samples else ""),
            tokens_per_step=speed,
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
    one = MANIFEST if manifest is None else manifest
    write_json(folder / EVALUATION, {name: {str(speed): one} for name in results})
    write_manifest(
        folder, stage="evaluate", fingerprint="x", counts={}, settings={"x": 1}, seconds=1.0
    )
    return folder


def compare(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> Any:
    capsys.readouterr()
    assert main(["compare", *map(str, arguments)]) == status
    return capsys.readouterr()


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_two_evaluations_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = evaluation(tmp_path / "No-SFT", {"math": [1, 0, 0, 0], "code": [1, 1, 1, 0]})
    arm = evaluation(tmp_path / "TABOM", {"math": [1, 1, 1, 0], "code": [0, 1, 0, 0]})
    shown = compare(capsys, base, arm, "--in_domain", "math")
    assert "| TABOM | 1 | 75.0 (+50.0 [" in shown.out
    lines = {
        line.split(" | ")[0].strip("| "): line for line in shown.out.splitlines() if "|" in line
    }
    assert lines["No-SFT"]
    table = next(x for x in shown.out.split("\n\n") if x.startswith("| arm | seeds"))
    head = [c.strip() for c in table.splitlines()[0].strip("|").split("|")]
    assert head == ["arm", "seeds", "math", "in domain", "code", "out of domain", "forgetting"]
    cells = [c.strip() for c in table.splitlines()[3].strip("|").split("|")]
    assert cells[4].startswith("25.0 (-50.0")
    assert cells[6].startswith("50.0")  # forgotten: 75 - 25
    assert "| TABOM |  | math | 4 | 2 | 0 | 0.5 |" in shown.out
    assert "| TABOM |  | code | 4 | 0 | 2 | 0.5 |" in shown.out
    assert "All were evaluated alike" in shown.out
    assert shown.err == ""
    out = base / "compare"
    assert f"output: {out}" in shown.out
    assert table in (out / "compare.md").read_text()
    found = {(r["arm"], r["key"]): r for r in rows(out / "compare.csv")}
    assert float(found["TABOM", "in_domain"]["delta"]) == 0.5
    assert float(found["TABOM", "set:code"]["mean"]) == 0.25
    details = {(r["table"], r["arm"], r["set"], r["key"]): r["value"]
               for r in rows(out / "compare_details.csv")}  # fmt: skip
    assert details["mcnemar", "TABOM", "code", "losses"] == "2"
    page = (out / "compare.html").read_text()
    assert "No-SFT against TABOM" in page
    assert "2 documents gained, 0 lost of 4 (McNemar p = 0.5)" in page


def test_another_manifest_warns_with_both_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"math": [1, 0], "code": [1, 0]})
    other = {"decoding": {"max_new_tokens": 512, "tokens_per_step": 1}, "dtype": "bfloat16"}
    arm = evaluation(tmp_path / "b", {"math": [1, 0], "code": [1, 0]}, manifest=other)
    shown = compare(capsys, base, arm, "--output_dir", tmp_path / "out")
    assert shown.err.splitlines() == [
        "warning: b was evaluated otherwise than the base: decoding.max_new_tokens is 512 there, "
        "256 for the base (math@1, code@1)"
    ]
    assert "| b | decoding.max_new_tokens | 256 | 512 | math@1, code@1 |" in shown.out
    assert "decoding.max_new_tokens = 512" in (tmp_path / "out" / "compare.html").read_text()
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
    shown = compare(capsys, base, arm)
    assert "| arm | m | 50.0 (+16.7 [" in shown.out  # pass@1
    assert "66.7 (+33.3 [" in shown.out  # pass@2
    assert "| arm | m | 2 | 2 | 1 | 0 | 1 | 1 |" in shown.out
    # The samples of a document are one document, with their mean.
    assert "| base | 1 | 33.3 |" in shown.out
    details = rows(base / "compare" / "compare_details.csv")
    assert [r["value"] for r in details if r["key"] == "gained_document"] == ["d1"]
    err = compare(capsys, base, arm, "--k", 4, status=2).err
    assert "pass@4 needs as many samples" in err


def test_seeds_roles_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = evaluation(tmp_path / "base", {"m": [0, 0, 1, 1]})
    for i, rights in enumerate(([1, 1, 1, 1], [1, 0, 1, 1])):
        evaluation(tmp_path / f"s{i}", {"m": rights})
    shown = compare(capsys, f"No-SFT={base}", f"TABOM={tmp_path / 's0'}",
                    f"TABOM={tmp_path / 's1'}", "--base", "No-SFT")  # fmt: skip
    assert "| TABOM | 2 | 87.5 (+37.5 [" in shown.out
    assert "| TABOM | 1 | m | 4 | 1 | 0 | 1 |" in shown.out
    assert "--base 'x' is none of the arms" in compare(capsys, base, "--base", "x", status=2).err
    err = compare(capsys, base, "--in_domain", "x", status=2).err
    assert "--in_domain names 'x'; the sets are m" in err


def test_speed_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]}, forwards=16)
    shown = compare(capsys, one)
    assert "| one | m | 1 | 1.00 | 16.0 | 50.0 |" in shown.out
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
def test_speed_by_threshold_is_not_called_a_token_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoding: dict[str, Any], shown: str
) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]}, forwards=16)
    two = evaluation(tmp_path / "two", {"m": [1, 1]}, manifest={"decoding": decoding}, forwards=4)
    out = compare(capsys, one, two).out
    assert "| one | m | 1 | 1.00 | 16.0 | 50.0 |" in out
    assert f"| two | m | {shown} | 4.00 | 4.0 | 100.0 |" in out
    kept = rows(tmp_path / "one" / "compare" / "compare_details.csv")
    assert [r["value"] for r in kept if r["key"] == "schedule"] == ["1", shown]


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
    table = next(x for x in shown.out.split("\n\n") if x.startswith("| arm | task | tokens a"))
    assert table.splitlines()[2:9] == [
        "| No-SFT | m | 1 | 1.00 | 16.0 | 25.0 |",
        "| No-SFT | m | 2 | 2.00 | 8.0 | 25.0 |",
        "| No-SFT | m | threshold 0.9 | 4.00 | 4.0 | 25.0 |",
        "| TABOM | m | 1 | 1.00 | 16.0 | 75.0 |",
        "| TABOM | m | 2 | 2.00 | 8.0 | 75.0 |",
        "| TABOM | m | threshold 0.9 | 4.00 | 4.0 | 75.0 |",
        "| TABOM | m | threshold 0.5 | 8.00 | 2.0 | 25.0 |",
    ]
    head = next(x for x in shown.out.splitlines() if x.startswith("| arm | seeds"))
    assert head == (
        "| arm | seeds | m | in domain | m, 2 tokens a step | in domain, 2 tokens a step | "
        "m, threshold 0.9 | in domain, threshold 0.9 |"
    )
    assert "| TABOM |  | m, threshold 0.9 | 4 | 2 | 0 | 0.5 |" in shown.out
    page = (out / "compare.html").read_text()
    assert "TABOM on m, threshold 0.5: 8.00 tokens per forward, accuracy 25.0." in page
    speeds = [r for r in rows(out / "compare_details.csv") if r["table"] == "speed"]
    assert {r["tokens_per_step"] for r in speeds} == {"1", "2", "threshold 0.9", "threshold 0.5"}


def test_seeds_under_several_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = []
    for seed, rights in enumerate(([1, 1, 0, 0], [1, 1, 1, 1])):
        given.append(evaluation(tmp_path / f"k-{seed}", {"m": rights}, forwards=16))
        given.append(
            evaluation(
                tmp_path / f"t-{seed}", {"m": rights[::-1]}, manifest=threshold(0.9), forwards=4
            )
        )
    shown = compare(capsys, *(f"TABOM={folder}" for folder in given))
    assert "| TABOM | 2 | 75.0 | 75.0 | 75.0 | 75.0 |" in shown.out


def test_a_set_that_an_arm_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"m": [1, 0], "n": [1, 0]})
    arm = evaluation(tmp_path / "b", {"m": [1, 0]})
    err = compare(capsys, base, arm, status=2).err
    assert "arm 'b': not evaluated on set 'n' at 1 tokens a step" in err
    assert "seed None" not in err


def test_what_the_held_out_check_found_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = evaluation(tmp_path / "a", {"m": [1, 0]})
    found = {**MANIFEST, "held_out": {"note": "Held-out check: 1 occurs.", "num_exact": 1}}
    arm = evaluation(tmp_path / "b", {"m": [1, 0]}, manifest=found)
    shown = compare(capsys, base, arm)
    assert "| b | Held-out check: 1 occurs. |" in shown.out
    assert shown.err == ""  # no difference in how it was evaluated
    assert "Held-out check: 1 occurs." in (base / "compare" / "compare.html").read_text()


def test_wrong_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such folder" in compare(capsys, tmp_path / "no", status=2).err
    (tmp_path / "empty").mkdir()
    assert "it has no manifest.json" in compare(capsys, tmp_path / "empty", status=2).err
    base = evaluation(tmp_path / "a", {"m": [1, 0]})
    arm = evaluation(tmp_path / "b", {"m": [1, 0, 1]})
    assert "other documents than the base" in compare(capsys, base, arm, status=2).err
    assert not (base / "compare").exists()


def test_a_folder_counts_once_and_broken_manifests_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = evaluation(tmp_path / "one", {"m": [1, 0]})
    assert "is given twice" in compare(capsys, f"A={one}", f"A={one}", status=2).err
    assert "| B | 1 |" in compare(capsys, f"A={one}", f"B={one}").out
    for content in ([], {"m": {"1": 3}}, {"m": 3}):
        write_json(one / EVALUATION, content)
        assert "not the manifests of an evaluation" in compare(capsys, one, status=2).err


@pytest.mark.slow
def test_two_toy_runs(
    tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, steps in (("first", 3), ("second", 2)):
        arguments = ["run", tiny_recipe, "--quiet", "--output_dir", tmp_path / name, "--set",
                     f"training.max_steps={steps}", "--set", "evaluation.num_fields=0"]  # fmt: skip
        assert main([str(a) for a in arguments]) == 0
    shown = compare(capsys, tmp_path / "first", tmp_path / "second")
    for arm in ("first: No-SFT", "first: TABOM", "second: No-SFT", "second: TABOM"):
        assert f"| {arm} |" in shown.out
    assert "in domain, 4 tokens a step" in shown.out
    assert shown.err == ""  # all were evaluated alike
    found = json.loads((tmp_path / "first" / "base" / "evaluate" / EVALUATION).read_text())
    assert found["sort"]["4"]["batch_size"] == 8
    assert (tmp_path / "first" / "compare" / "compare.html").stat().st_size > 10_000
    # One run alone: its own untrained arm is the base.
    shown = compare(capsys, tmp_path / "second")
    assert "| TABOM | 1 |" in shown.out
