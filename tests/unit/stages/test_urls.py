"""Stages that write to URLs and read from them: the same results as in a folder."""

import json
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tabom.cli.main import main
from tabom.core.atomic import create
from tabom.core.manifest import read_manifest
from tabom.core.place import entries, local_folder, place, source
from tabom.trajectory.store import TrajectoryStore
from tabom.trajectory.verdicts import read_verdicts


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files of URLs grow."""
    monkeypatch.setenv("TABOM_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture
def url() -> str:
    return f"memory://bucket/{uuid.uuid4().hex}"


def answers(folder: object) -> list[tuple]:
    return [
        (t.id, t.response_ids_N.tolist(), t.step_N.tolist(), t.row)
        for t in TrajectoryStore(folder)  # type: ignore[arg-type]
    ]


def test_every_stage_by_url_equals_folders(tiny_recipe: Path, tmp_path: Path, url: str) -> None:
    both = (str(tmp_path / "here"), url)
    for root in both:
        for verb, *words in (
            ("collect",),
            ("verify", "--trajectories", f"{root}/collect"),
            ("train", "--trajectories", f"{root}/collect", "--verdicts", f"{root}/verify",
             "--objective", "tabom"),
            ("evaluate", "--trained", f"{root}/train"),
            ("evaluate",),
        ):  # fmt: skip
            name = "base" if verb == "evaluate" and not words else verb
            assert main([verb, "--config", str(tiny_recipe), "--quiet", *words,
                         "--output_dir", f"{root}/{name}"]) == 0  # fmt: skip
        assert main(["compare", f"{root}/base", f"TABOM={root}/evaluate", "--output_dir",
                     f"{root}/compare"]) == 0  # fmt: skip
        assert main(["status", root]) == 0
    one, two = map(place, both)
    assert answers(one / "collect") == answers(two / "collect")
    verdicts = [read_verdicts(root / "verify" / "verdicts.parquet") for root in (one, two)]
    assert verdicts[0] == verdicts[1]
    for name in ("train/adapter_model.safetensors", "train/trained_on.parquet",
                 "evaluate/results.json", "evaluate/fields.json",
                 "compare/compare.csv"):  # fmt: skip
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for root in (one, two):
        for name in ("collect", "verify", "train", "evaluate"):
            manifest = read_manifest(root / name)
            assert manifest is not None
            assert not (root / name / ".started.json").exists()
            for file, facts in manifest.files.items():
                assert (root / name / file).stat().st_size == facts.bytes


def test_a_study_on_a_url_writes_its_report_there_and_keeps_no_keys(
    tiny_recipe: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--output_dir", url, "--storage_options", '{"memory": {"token": "hush"}}']
    assert main(["run", str(tiny_recipe), "--quiet", *given]) == 0
    assert main(["run", str(tiny_recipe), *given]) == 0
    assert "stages are complete" in capsys.readouterr().out
    assert main(["report", *given[1:]]) == 0
    for path in place(url).rglob("*"):
        if path.is_file():
            assert b"hush" not in path.read_bytes(), path
    summary = json.loads((place(url) / "summary.json").read_text())
    assert main(["run", str(tiny_recipe), "--quiet", "--output_dir", str(tmp_path / "x")]) == 0
    same = json.loads((tmp_path / "x/summary.json").read_text())
    assert summary["comparison"] == same["comparison"]


def test_overwriting_a_url_leaves_what_others_read(
    tiny_recipe: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def collect(out: str, *more: str) -> int:
        return main(["collect", "--config", str(tiny_recipe), "--quiet", "--output_dir", out,
                     *more])  # fmt: skip

    assert collect(url) == 0
    old, reader = answers(url), TrajectoryStore(url)
    assert collect(url, "--seed", "1") == 2  # another's
    assert "--overwrite" in capsys.readouterr().err
    changed = ("--set", "prompts.args.num=8")
    assert collect(url, *changed, "--overwrite") == 0
    assert len(reader) == len(list(reader)) == len(old) == 24  # it goes on with what it opened
    assert len(TrajectoryStore(url)) == len(answers(url)) == 8
    assert collect(url, *changed) == 0  # complete
    generation = read_manifest(url)
    assert generation is not None
    assert generation.generation
    assert f"path: {generation.generation}/data/" in (place(url) / "README.md").read_text()
    # What verify and train make of it is its own.
    assert main(["verify", "--config", str(tiny_recipe), "--quiet", "--trajectories", url,
                 "--output_dir", f"{url}-verify"]) == 0  # fmt: skip
    assert main(["train", "--config", str(tiny_recipe), "--quiet", "--trajectories", url,
                 "--verdicts", f"{url}-verify", "--objective", "trajectory_ce",
                 "--output_dir", f"{url}-train"]) == 0  # fmt: skip
    again = ["train", "--config", str(tiny_recipe), "--quiet", "--trajectories", url,
             "--verdicts", f"{url}-verify", "--objective", "tabom", "--overwrite",
             "--output_dir", f"{url}-train"]  # fmt: skip
    assert main(again) == 0
    first = pq.read_table((place(f"{url}-train") / "trained_on.parquet").open("rb"))
    assert first.num_rows == 8
    assert main(["evaluate", "--config", str(tiny_recipe), "--quiet", "--trained", f"{url}-train",
                 "--output_dir", f"{url}-evaluate"]) == 0  # fmt: skip


def test_the_hub_is_not_written_to(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("collect", "evaluate"):
        assert main([verb, "--config", str(tiny_recipe), "--output_dir", "hf://datasets/a/b"]) == 2
        assert "tabom push" in capsys.readouterr().err
    assert main(["run", str(tiny_recipe), "--output_dir", "hf://datasets/a/b"]) == 2
    assert "tabom push" in capsys.readouterr().err


def test_a_kind_of_url_that_cannot_be_opened_names_what_to_install(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collect", "--config", str(tiny_recipe), "--output_dir", "gs://b/run"]) == 2
    assert "tabom[gcs]" in capsys.readouterr().err
    assert main(["collect", "--config", str(tiny_recipe), "--output_dir", "s3://b/run",
                 "--storage_options",
                 '{"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b", '
                 '"config_kwargs": {"retries": {"max_attempts": 0}}}']) == 2  # fmt: skip
    assert "s3://b/run" in capsys.readouterr().err  # not installed, or not reached
    assert main(["status", "nonsense://b/run"]) == 2
    assert "nonsense://b/run" in capsys.readouterr().err


def test_a_stage_that_stopped_goes_on_from_this_machine(
    tiny_recipe: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tabom.stages import verify

    assert main(["collect", "--config", str(tiny_recipe), "--quiet", "--output_dir", url]) == 0
    command = ["verify", "--config", str(tiny_recipe), "--quiet", "--trajectories", url,
               "--output_dir", f"{url}-v", "--chunk_size", "6"]  # fmt: skip
    real, calls = verify.Verify.chunks, []

    def chunks(self: verify.Verify) -> object:
        found = real(self)
        put = found.put

        def once(*args: object, **more: object) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            put(*args, **more)  # type: ignore[arg-type]

        found.put = once  # type: ignore[method-assign, assignment]
        return found

    monkeypatch.setattr(verify.Verify, "chunks", chunks)
    assert main(command) == 130
    assert main(command) == 0
    assert len(calls) == 5  # four chunks, of which one was begun twice
    assert len(read_verdicts(f"{url}-v/verdicts.parquet")) == 24
    assert not any(local_folder(place(f"{url}-v")).rglob("*.jsonl"))


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[dict[str, str], object]]:
    """Options of an S3 server of which every 7th request fails, and its counts."""
    pytest.importorskip("moto", reason="S3 is served by moto, of the group slow")
    pytest.importorskip("s3fs", reason="needs tabom[s3]")
    from object_store import served

    with served(every=7) as (address, faults):
        yield {"endpoint_url": address, "key": "a", "secret": "b"}, faults


@pytest.mark.slow
def test_of_many_who_create_one_object_one_does(s3: tuple[dict[str, str], object]) -> None:
    """Also where the request of the one who did was answered by an error, and sent again."""
    options, _ = s3
    root = place(f"s3://bucket/{uuid.uuid4().hex}", options)
    for size in (10, 6_000_000):
        for number in range(6):
            path = root / f"{size}-{number}"
            contents = [bytes([65 + i]) * size for i in range(4)]
            with ThreadPoolExecutor(4) as pool:
                made = list(pool.map(lambda c, path=path: create(path, c), contents))
            assert sum(made) == 1
            assert path.read_bytes() == contents[made.index(True)]
            assert [e.name for e in entries(root)].count(path.name) == 1  # as soon as it is written
    assert (root / "10-0").is_file()
    assert not (root / "none").exists()


@pytest.mark.slow
def test_every_stage_on_s3_with_faults_equals_folders(
    tiny_recipe: Path,
    tmp_path: Path,
    s3: tuple[dict[str, str], Any],
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, faults = s3
    url = f"s3://bucket/{uuid.uuid4().hex}"
    here = str(tmp_path / "here")

    def run(*words: str) -> None:
        command = [words[0], "--config", str(tiny_recipe), "--quiet", *words[1:], "--set",
                   "collection.batch_size=1", "--set", "evaluation.batch_size=1"]  # fmt: skip
        if url in words[-1]:
            command += ["--storage_options", json.dumps(options)]
        assert main(command) == 0

    for root, *many in ([here], [url, "--chunk_workers", "2", "--chunk_size", "6"]):
        run("collect", *many, "--output_dir", f"{root}/collect")
        inputs = ["--trajectories", f"{root}/collect"]
        run("verify", *many, *inputs, "--output_dir", f"{root}/verify")
        run("train", *inputs, "--verdicts", f"{root}/verify", "--objective", "tabom",
            "--output_dir", f"{root}/train")  # fmt: skip
        shutil.rmtree(spool, ignore_errors=True)  # another machine goes on
        run("evaluate", *many, "--trained", f"{root}/train", "--output_dir", f"{root}/evaluate")
    one, two = place(here), place(url, options)
    assert sorted(answers(one / "collect")) == sorted(answers(two / "collect"))
    assert len(entries(two / "collect" / "data")) == 4
    verdicts = [read_verdicts(root / "verify" / "verdicts.parquet") for root in (one, two)]
    assert verdicts[0] == verdicts[1]
    # The order of the rows may differ between chunks of other sizes; the trained set does not.
    trained = [pq.read_table(source(r / "train" / "trained_on.parquet")) for r in (one, two)]
    assert sorted(trained[0]["prompt"].to_pylist()) == sorted(trained[1]["prompt"].to_pylist())
    tables = [pq.read_table(source(r / "evaluate" / "records.parquet")) for r in (one, two)]
    assert tables[0].num_rows == tables[1].num_rows
    assert faults.num_faults > 20
    from datasets import config, load_dataset

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)  # it is no hub that is reached
    rows = load_dataset(
        "parquet",
        data_files=f"{url}/collect/data/*.parquet",
        storage_options=options,
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert sorted(rows["id"]) == sorted(t[0] for t in answers(one / "collect"))
