import gc
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tabom.core.errors import DataError, StageError
from tabom.core.manifest import begin, verify_files
from tabom.trajectory import store as store_module
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finalize, scan_partial

Make = Callable[..., Trajectory]
SETTINGS = {"policy": "entropy"}
RUN: dict[str, Any] = {"fingerprint": "f1", "settings": SETTINGS, "seconds": 1.0}


def collect(folder: Path, trajectories: list[Trajectory], **options: Any) -> TrajectoryStore:
    begin(folder, stage="collect", fingerprint="f1", settings=SETTINGS)
    with TrajectoryWriter(folder) as writer:
        writer.append_many(trajectories)
    finalize(folder, **RUN, **options)
    return TrajectoryStore(folder)


def test_from_writers_to_a_store(tmp_path: Path, make: Make, says: Callable[..., Any]) -> None:
    everything = [make(i) for i in range(25)]
    begin(tmp_path, stage="collect", fingerprint="f1", settings=SETTINGS)
    for rank, part in enumerate((everything[15:], everything[:16])):  # id 15 was collected twice
        with TrajectoryWriter(tmp_path, rank=rank) as writer:
            writer.append_many(part)
    manifest = finalize(tmp_path, **RUN, rows_per_shard=10)
    assert manifest.counts == {
        "num_trajectories": 25, "num_shards": 3, "num_doubled": 1, "num_torn": 0,
        "num_truncated": 0, "num_forwards": sum(t.num_forwards for t in everything),
    }  # fmt: skip
    assert sorted(manifest.files) == [
        "README.md", *(f"data/train-0000{k}-of-00003.parquet" for k in range(3))
    ]  # fmt: skip
    assert verify_files(tmp_path) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "data", "manifest.json"]
    store = TrajectoryStore(tmp_path)
    assert len(store) == 25
    assert store.manifest == manifest
    assert [says(t) for t in store] == [says(t) for t in everything]
    assert store.ids() == [t.id for t in everything]
    assert [len(b) for b in store.batches(10)] == [10, 10, 5]
    assert [t.id for t in store.head(3)] == ["id-0000", "id-0001", "id-0002"]
    assert [says(t) for t in store] == [says(t) for t in everything]  # a second pass begins anew
    assert (
        pq.ParquetFile(tmp_path / "data/train-00000-of-00003.parquet")
        .metadata.row_group(0)
        .column(0)
        .compression
        == "ZSTD"
    )


def test_content_does_not_depend_on_who_wrote_what(tmp_path: Path, make: Make) -> None:
    everything = [make(i) for i in range(12)]
    one = collect(tmp_path / "one", everything)
    for part in (everything[6:][::-1], everything[:6]):
        with TrajectoryWriter(tmp_path / "two", rank=os.getpid() % 7) as writer:
            writer.append_many(part)
    finalize(tmp_path / "two", **RUN)
    two = TrajectoryStore(tmp_path / "two")
    assert one.manifest is not None
    assert two.manifest is not None
    assert one.manifest.files == two.manifest.files  # the very same bytes


def test_planned_ids_give_the_rows_their_order_and_must_all_be_there(
    tmp_path: Path, make: Make
) -> None:
    wanted = [f"id-{i:04d}" for i in (3, 0, 2, 1)]
    store = collect(tmp_path / "a", [make(i) for i in range(4)], ids=wanted)
    assert store.ids() == wanted
    with pytest.raises(StageError, match=r"1 of 4 trajectories are missing \(first: 'id-0002'\)"):
        collect(tmp_path / "b", [make(i) for i in (3, 0, 1)], ids=wanted)
    assert scan_partial(tmp_path / "b") == {"id-0000", "id-0001", "id-0003"}  # nothing lost
    assert not (tmp_path / "b" / "manifest.json").exists()
    with pytest.raises(StageError, match=r"holds 1 trajectories that were not asked for .*0007"):
        collect(tmp_path / "c", [make(i) for i in (0, 1, 2, 3, 7)], ids=wanted)


def test_one_id_with_two_contents_is_an_error_that_names_both_lines(
    tmp_path: Path, make: Make
) -> None:
    with pytest.raises(DataError, match=r"line 3: trajectory 'id-0001' differs .*, line 2;"):
        collect(tmp_path, [make(0), make(1), make(1, response="other")])
    assert len(scan_partial(tmp_path)) == 2


def test_nothing_collected_and_another_run(tmp_path: Path, make: Make) -> None:
    with pytest.raises(StageError, match="nothing was collected"):
        finalize(tmp_path / "empty", **RUN)
    collect(tmp_path / "a", [make(0)])
    with pytest.raises(StageError, match="another recipe"):
        finalize(tmp_path / "a", fingerprint="f2", settings=SETTINGS, seconds=0)


@pytest.mark.parametrize("moment", ["second shard", "card", "manifest", "cleaning"])
def test_finalize_killed_at_any_moment_can_run_again(
    tmp_path: Path,
    make: Make,
    says: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    everything = [make(i) for i in range(9)]
    with TrajectoryWriter(tmp_path) as writer:
        writer.append_many(everything)
    name = {
        "second shard": "to_arrow",
        "card": "write_text",
        "manifest": "write_manifest",
        "cleaning": "read_manifest",
    }[moment]
    real, calls = getattr(store_module, name), []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if moment != "second shard" or len(calls) > 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(store_module, name, killed)
    with pytest.raises(KeyboardInterrupt):
        finalize(tmp_path, **RUN, rows_per_shard=5)
    monkeypatch.undo()
    if moment != "cleaning":
        with pytest.raises(StageError, match="not finished"):
            TrajectoryStore(tmp_path)
    finalize(tmp_path, **RUN, rows_per_shard=4)  # other shard names than the first attempt's
    assert [says(t) for t in TrajectoryStore(tmp_path)] == [says(t) for t in everything]
    shards = sorted(p.name for p in (tmp_path / "data").iterdir())
    if moment != "cleaning":
        assert shards == [f"train-0000{k}-of-00003.parquet" for k in range(3)]
    assert not (tmp_path / "partial").exists()


def test_an_unfinished_or_missing_collection(tmp_path: Path, make: Make) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        writer.append(make(0))
    with pytest.raises(
        StageError, match=r"not finished \(no manifest\.json, 1 trajectories so far"
    ):
        TrajectoryStore(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        TrajectoryStore(tmp_path / "nowhere")
    from tabom.core.manifest import write_manifest

    shutil.rmtree(tmp_path / "partial")
    write_manifest(tmp_path, stage="train", fingerprint="f", counts={}, settings={}, seconds=0)
    with pytest.raises(StageError, match="holds stage 'train', expected 'collect'"):
        TrajectoryStore(tmp_path)


def test_damaged_files_are_named(tmp_path: Path, make: Make) -> None:
    store = collect(tmp_path, [make(i) for i in range(300)])
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: \d+ bytes, the manifest"):
        TrajectoryStore(tmp_path)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        TrajectoryStore.from_parquet(path)
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1  # one bit; Parquet reads another number, or fails much later
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: changed since"):
        TrajectoryStore(tmp_path)
    path.write_bytes(whole[:4] + bytes(b ^ 0x55 for b in whole[4:400]) + whole[400:])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet"):
        list(store)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: missing"):
        TrajectoryStore(tmp_path)


def test_a_malformed_row_in_a_file_is_named(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "bare.parquet"
    batch = to_arrow([make(i) for i in range(600)])
    index = batch.schema.get_field_index("num_forwards")
    values = batch.column(index).to_pylist()
    values[550] = 0  # row 550 lies in the third batch that is read
    import pyarrow as pa

    batch = batch.set_column(index, batch.schema.field(index), pa.array(values, pa.int32()))
    with pq.ParquetWriter(path, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=rf"^{path}, row 550, field 'step': step \d+ is not below"):
        list(TrajectoryStore.from_parquet(path))


def test_from_parquet_reads_a_file_or_a_folder(tmp_path: Path, make: Make) -> None:
    collect(tmp_path / "run", [make(i) for i in range(7)], rows_per_shard=3)
    folder = TrajectoryStore.from_parquet(tmp_path / "run")
    assert folder.manifest is None
    assert len(folder) == 7
    file = TrajectoryStore.from_parquet(tmp_path / "run/data/train-00001-of-00003.parquet")
    assert file.ids() == ["id-0003", "id-0004", "id-0005"]
    shutil.copy(tmp_path / "run/data/train-00001-of-00003.parquet", tmp_path / "run/copy.parquet")
    with pytest.raises(DataError, match="id 'id-0003' occurs twice"):
        TrajectoryStore.from_parquet(tmp_path / "run").ids()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no Parquet file"):
        TrajectoryStore.from_parquet(tmp_path / "none")
    pq.write_table(pq.read_table(tmp_path / "run/copy.parquet").replace_schema_metadata(None),
                   tmp_path / "none/x.parquet")  # fmt: skip
    with pytest.raises(DataError, match="not a trajectory file"):
        TrajectoryStore.from_parquet(tmp_path / "none")


@pytest.mark.parametrize("num_rows", [600, 1800])
def test_streaming_and_compaction_hold_a_bounded_number_of_rows(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    alive: weakref.WeakSet[Trajectory] = weakref.WeakSet()
    peak = 0
    real = Trajectory.__post_init__

    def counted(self: Trajectory) -> None:
        nonlocal peak
        real(self)
        alive.add(self)
        peak = max(peak, len(alive))

    one = make(1)
    with TrajectoryWriter(tmp_path) as writer:
        writer.append_many([make(1, id=f"{i:05d}") for i in range(num_rows)])
    del one
    gc.collect()
    monkeypatch.setattr(Trajectory, "__post_init__", counted)
    finalize(tmp_path, **RUN)
    assert peak <= 2 * store_module.READ_ROWS
    gc.collect()
    peak = 0
    assert sum(1 for _ in TrajectoryStore(tmp_path)) == num_rows
    assert peak <= 2 * store_module.READ_ROWS


def test_datasets_opens_the_folder_offline(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    collect(tmp_path / "run", [make(i) for i in range(7)], rows_per_shard=3)
    rows = datasets.load_dataset(
        str(tmp_path / "run"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 7
    assert rows[4]["id"] == "id-0004"
    assert rows[4]["step"] == make(4).step_N.tolist()
    assert rows[4]["order"] == make(4).order_N.tolist()
