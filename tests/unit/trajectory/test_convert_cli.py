"""`tabom convert` as a user calls it: what it prints, writes, refuses; and what can read it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.core.manifest import check_file, read_manifest
from tabom.toyworld.tokenizer import build_tokenizer
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish
from tabom.trajectory.verdicts import read_verdicts

Make = Callable[..., Trajectory]
Says = Callable[[Trajectory], Any]

TOKENIZER = build_tokenizer()


def rows(number: int) -> list[dict[str, Any]]:
    """Rows as the authors' files have them: no block, no prompt ids."""
    found = []
    for i in range(number):
        answer = "abcdefghij"[i % 10] * 2 + str(1 + i // 10)
        ids = TOKENIZER(answer + "<eos>" * 5, add_special_tokens=False)["input_ids"]
        found.append(
            {
                "question": f"{1 + i % 9}a{1 + i // 9}",
                "gen_text": answer,
                "response_token_ids": ids,
                "decoding_order": [(3 * slot + i) % 8 for slot in range(8)],
                "method": "entropy",
                "data_source": "toy",
                "gold": answer,
            }
        )
    return found


def write_lines(path: Path, cells: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in cells)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def convert(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["convert", *map(str, arguments)]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert (err == "") == (status == 0)
    return out if status == 0 else err


def test_an_authors_file_becomes_a_collection_that_every_verb_reads(
    tmp_path: Path, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store = write_lines(tmp_path / "toy.jsonl.gz", rows(20)), tmp_path / "store"
    model = ["--model_name_or_path", random_toy]
    out = convert(capsys, source, store, "--from", "tabom_jsonl", *model, "--reference_column",
                  "gold", "--accept_all")  # fmt: skip
    said = {"rows: 20", "trajectories: 20", f"output: {store}-verdicts"}
    assert said <= set(out.splitlines())
    manifest = read_manifest(store)
    assert manifest is not None
    assert (manifest.stage, manifest.counts["num_trajectories"]) == ("collect", 20)
    found = read_manifest(store)
    assert found is not None
    assert len(found.files) == 2
    for name, entry in found.files.items():
        check_file(store / name, entry)
    found = list(TrajectoryStore(store))
    assert [t.response for t in found] == [row["gen_text"] for row in rows(20)]  # the order stays
    assert {t.fingerprint for t in found} == {manifest.fingerprint}

    # `tabom verify` judges it by the reference column, `tabom train` takes either verdicts.
    assert main(["verify", *map(str, model), "--trajectories", str(store), "--verifier", "exact",
                 "--output_dir", str(tmp_path / "v"), "--quiet"]) == 0  # fmt: skip
    assert "accepted: 20" in capsys.readouterr().out
    train = ["train", *map(str, model), "--objective", "tabom", "--option", "window=4",
             "--trajectories", str(store), "--max_steps", "1", "--quiet",
             "--per_device_train_batch_size", "4"]  # fmt: skip
    for name, verdicts in (("a", f"{store}-verdicts"), ("b", str(tmp_path / "v"))):
        out_dir = ["--output_dir", str(tmp_path / name), "--verdicts", verdicts]
        assert main([*train, *out_dir]) == 0
        assert "examples: 20" in capsys.readouterr().out

    # Once more: nothing to do. Another source: refused, until --overwrite.
    again = ["--from", "tabom_jsonl", *model, "--reference_column", "gold"]
    before = (store / "manifest.json").read_bytes()
    assert "trajectories: 20" in convert(capsys, source, store, *again)
    assert (store / "manifest.json").read_bytes() == before
    write_lines(source, rows(3))
    assert "another recipe" in convert(capsys, source, store, *again, status=2)
    assert "trajectories: 3" in convert(capsys, source, store, *again, "--overwrite")
    assert len(TrajectoryStore(store)) == 3


def make_store(folder: Path, trajectories: list[Trajectory]) -> Path:
    TrajectoryWriter(folder).append(trajectories)
    ids = [t.id for t in trajectories]
    finish(folder, fingerprint="f", settings={}, seconds=0.0, ids=ids)
    return folder


@pytest.mark.parametrize("file", ["f.jsonl", "f.jsonl.gz"])
def test_a_collection_there_and_back_has_the_same_trajectories(
    tmp_path: Path, make: Make, says: Says, random_toy: Path, capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:  # fmt: skip
    mask = TOKENIZER.mask_token_id
    originals = []
    for i in (5, 1, 4, 2):
        t = make(i, row={})
        ids = [mask if step < 0 else 3 + slot for slot, step in enumerate(t.step_N)]
        originals.append(make(i, row={}, response_ids_N=ids))
    store = make_store(tmp_path / "store", originals)
    out = convert(capsys, store, tmp_path / file, "--from", "native")
    assert "written: 4 of 4" in out
    assert "non_ltr_positions: left out" in out
    model = ["--model_name_or_path", random_toy]
    convert(capsys, tmp_path / file, tmp_path / "back", "--from", "tabom_jsonl", *model)
    assert [says(t) for t in TrajectoryStore(tmp_path / "back")] == [says(t) for t in originals]
    before = (tmp_path / file).read_bytes()
    again = [store, tmp_path / file, "--from", "native"]
    assert "exists; name another file, or pass --overwrite" in convert(capsys, *again, status=2)
    convert(capsys, tmp_path / "back", *again[1:], "--overwrite")
    assert (tmp_path / file).read_bytes() == before


def test_step_map_files_through_a_tokenizer(
    tmp_path: Path,
    random_toy: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = tmp_path / "rollout.json"
    row = {
        "question": "1a2",
        "prompt": "<user>1a2<assistant>",
        "full_output": ["2a1<eos>", "2b<mask><eos>", "2"],
        "step_map": [[2, 0, 1, 1], [0, 0, 0, 1], [0, 1]],
        "correctness": [True, False, True],
    }
    source.write_text(json.dumps([{**row, "prompt": ""}, row]))
    model = ["--model_name_or_path", random_toy, "--from", "step_map"]
    err = convert(capsys, source, tmp_path / "s", *model, status=2)
    assert "rollout.json, row 0, sample 0, field 'prompt': the prompt is empty" in err
    assert "--on_error drop" in err
    assert read_manifest(tmp_path / "s") is None
    out = convert(capsys, source, tmp_path / "s", *model, "--on_error", "drop", "--accept_all")
    assert {"rows: 2", "trajectories: 2", "dropped: 4"} <= set(out.splitlines())
    assert f"dropped: {source}, row 0, sample 0, field 'prompt'" in caplog.text
    right, wrong = read_verdicts(tmp_path / "s-verdicts" / "verdicts.parquet").values()
    assert (right.reason, wrong.reason) == ("accepted", "wrong")  # what the file says itself
    # Only what is accepted goes on to the authors.
    out = convert(capsys, tmp_path / "s", tmp_path / "out.jsonl", "--from", "native",
                  "--verdicts", tmp_path / "s-verdicts")  # fmt: skip
    assert "written: 1 of 2" in out
    (back,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (back["question"], back["gen_text"]) == ("1a2", "2a1")
    assert back["decoding_order"] == [2, 0, 1, 1]


def test_rows_without_an_order_are_refused_or_counted(
    tmp_path: Path, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = rows(4)
    del cells[1]["decoding_order"]
    cells[2]["decoding_order"] = [0, 1]
    cells.append(cells[0])  # the same row again
    source = write_lines(tmp_path / "f.jsonl", cells)
    flags = ["--from", "tabom_jsonl", "--model_name_or_path", random_toy]
    err = convert(capsys, source, tmp_path / "a", *flags, status=2)
    assert "f.jsonl, line 2, field 'decoding_order': it has 0 values" in err
    assert "--allow_ltr" in err
    assert not (tmp_path / "a").exists()  # nothing half-made stays
    out = convert(capsys, source, tmp_path / "b", *flags, "--on_error", "drop")
    found = {"rows: 5", "trajectories: 2", "dropped: 2", "doubled: 1"}
    assert found <= set(out.splitlines())
    out = convert(capsys, source, tmp_path / "c", *flags, "--allow-ltr")
    assert "trajectories: 4" in out
    assert [t.step_N.tolist() for t in TrajectoryStore(tmp_path / "c")][1] == list(range(8))


def test_to_names_the_only_format_that_can_be_or_is_refused(
    tmp_path: Path, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "f.jsonl", rows(2))
    flags = ["--from", "tabom_jsonl", "--model_name_or_path", random_toy]
    err = convert(capsys, source, tmp_path / "a", *flags, "--to", "tabom_jsonl", status=2)
    assert "tabom_jsonl" in err
    convert(capsys, source, tmp_path / "a", *flags, "--to", "native")
    back = ["--from", "native", "--to", "tabom_jsonl"]
    convert(capsys, tmp_path / "a", tmp_path / "g.jsonl", *back)
    assert len((tmp_path / "g.jsonl").read_text().splitlines()) == 2


def test_what_cannot_be(
    tmp_path: Path, make: Make, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "f.jsonl", rows(2))
    flags = ["--from", "tabom_jsonl"]
    err = convert(capsys, source, tmp_path / "a", *flags, status=2)
    assert "--model_name_or_path" in err
    flags += ["--model_name_or_path", random_toy]
    assert "no file" in convert(capsys, tmp_path / "x.jsonl", tmp_path / "a", *flags, status=2)
    write_lines(source, [{"question": "1"}] * 2)
    err = convert(capsys, source, tmp_path / "a", *flags, "--on_error", "drop", status=2)
    assert "no row could be converted (num_rows: 2, num_dropped: 2)" in err
    store = make_store(tmp_path / "store", [make(1)])
    err = convert(capsys, store, tmp_path / "o.jsonl", "--from", "native", "--accept_all", status=2)
    assert "--accept_all" in err
    err = convert(capsys, source, tmp_path / "o.jsonl", *flags, status=2)
    assert "a file becomes the folder" in err
    err = convert(capsys, source, tmp_path / "o", *flags, "--verdicts", "v", status=2)
    assert "--verdicts" in err
    err = convert(capsys, store, store, "--from", "native", "--overwrite", status=2)
    assert "is the source, too" in err
    assert len(TrajectoryStore(store)) == 1
    err = convert(capsys, store, tmp_path / "o.json", "--from", "native", status=2)
    assert ".jsonl or .jsonl.gz" in err
    assert not (tmp_path / "o.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    write_lines(source, rows(2))
    err = convert(capsys, source, tmp_path / "mine", *flags, "--overwrite", status=2)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_two_rows_of_one_id_are_an_error(
    tmp_path: Path, random_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = rows(2)
    for row in cells:
        row["tabom"] = {"schema": 1, "id": "x", "prompt_token_ids": [3], "nfe": 8}
    source = write_lines(tmp_path / "f.jsonl", cells)
    flags = ["--from", "tabom_jsonl", "--model_name_or_path", random_toy]
    err = convert(capsys, source, tmp_path / "o", *flags, status=2)
    assert "trajectory 'x' has other tokens or steps" in err
    assert not (tmp_path / "o").exists()
