import gc
import os
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core import manifest as manifest_module
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import Mark, begin, check_file, read_manifest
from tabom.trajectory import store as store_module
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import SCHEMA, to_arrow
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish

Make = Callable[..., Trajectory]
MADE = Trajectory(
    id="x", prompt="p", prompt_ids=[1], response="r", response_ids_N=[1, 2],
    step_N=[0, 1], entropy_N=[0.5, 0.25], confidence_N=[0.5, 0.75], num_forwards=2,
)  # fmt: skip
SETTINGS = {"policy": "entropy"}
RUN: dict[str, Any] = {"fingerprint": "f1", "settings": SETTINGS, "seconds": 1.0}


def ids_of(store: TrajectoryStore) -> list[str]:
    return [t.id for t in store]


def collect(folder: Path, trajectories: list[Trajectory], **options: Any) -> TrajectoryStore:
    begin(folder, Mark(stage="collect", fingerprint="f1", settings=SETTINGS))
    TrajectoryWriter(folder).append(trajectories)
    finish(folder, **RUN, **options)
    return TrajectoryStore(folder)


def test_from_writers_to_a_store(
    tmp_path: Path, make: Make, says: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ROWS_PER_FILE", 10)
    everything = [make(i) for i in range(25)]
    begin(tmp_path, Mark(stage="collect", fingerprint="f1", settings=SETTINGS))
    for part in (everything[15:], everything[:16]):  # id 15 was collected twice
        TrajectoryWriter(tmp_path).append(part)
    manifest = finish(tmp_path, **RUN)
    assert manifest.counts == {
        "num_trajectories": 25, "num_chunks": 3, "num_doubled": 1, "num_torn": 0,
        "num_truncated": 0, "num_forwards": sum(t.num_forwards for t in everything),
    }  # fmt: skip
    assert sorted(manifest.files) == [
        "README.md", *(f"data/chunk-0000{k}.parquet" for k in range(3))
    ]  # fmt: skip
    found = read_manifest(tmp_path)
    assert found is not None
    assert len(found.files) == 4
    for name, entry in found.files.items():
        check_file(tmp_path / name, entry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "data", "manifest.json"]
    store = TrajectoryStore(tmp_path)
    assert len(store) == 25
    assert store.manifest == manifest
    assert [says(t) for t in store] == [says(t) for t in everything]
    assert [says(t) for t in store] == [says(t) for t in everything]  # a second pass begins anew
    assert (
        pq.ParquetFile(tmp_path / "data/chunk-00000.parquet")
        .metadata.row_group(0)
        .column(0)
        .compression
        == "ZSTD"
    )


def test_content_does_not_depend_on_who_wrote_what(tmp_path: Path, make: Make) -> None:
    everything = [make(i) for i in range(12)]
    one = collect(tmp_path / "one", everything)
    for part in (everything[6:][::-1], everything[:6]):
        TrajectoryWriter(tmp_path / "two").append(part)
    finish(tmp_path / "two", **RUN)
    two = TrajectoryStore(tmp_path / "two")
    assert one.manifest is not None
    assert two.manifest is not None
    assert one.manifest.files == two.manifest.files  # the very same bytes


def test_planned_ids_give_the_rows_their_order_and_must_all_be_there(
    tmp_path: Path, make: Make
) -> None:
    wanted = [f"id-{i:04d}" for i in (3, 0, 2, 1)]
    store = collect(tmp_path / "a", [make(i) for i in range(4)], ids=wanted)
    assert ids_of(store) == wanted
    with pytest.raises(StageError, match=r"1 of 4 trajectories are missing \['id-0002'\]"):
        collect(tmp_path / "b", [make(i) for i in (3, 0, 1)], ids=wanted)
    assert TrajectoryWriter(tmp_path / "b").done() == {
        "id-0000",
        "id-0001",
        "id-0003",
    }  # nothing lost
    assert not (tmp_path / "b" / "manifest.json").exists()
    with pytest.raises(StageError, match=r"1 were not asked for .*0007"):
        collect(tmp_path / "c", [make(i) for i in (0, 1, 2, 3, 7)], ids=wanted)


@pytest.mark.parametrize("is_one_batch", [True, False])
def test_one_id_with_two_contents_is_an_error_that_names_both_files(
    tmp_path: Path, make: Make, is_one_batch: bool
) -> None:
    n = make(1).num_slots
    batches = [[make(0), make(1)], [make(1, response_ids_N=[7] * n)]]
    writer = TrajectoryWriter(tmp_path)
    for batch in [[*batches[0], *batches[1]]] if is_one_batch else batches:
        writer.append(batch)
    with pytest.raises(
        DataError, match=r"row \d: trajectory 'id-0001' has other .*\.arrow, row 1;"
    ):
        finish(tmp_path, **RUN)
    assert len(writer.done()) == 2


@pytest.mark.parametrize("is_one_batch", [True, False])
def test_equal_tokens_and_steps_are_one_row_whatever_the_last_bits_of_entropy(
    tmp_path: Path, make: Make, is_one_batch: bool
) -> None:
    first = make(3)
    other = make(3, entropy_N=first.entropy_N * np.float32(1 + 1e-6), response="same tokens")
    writer = TrajectoryWriter(tmp_path)
    for batch in [[first, other]] if is_one_batch else [[first], [other]]:
        writer.append(batch)
    manifest = finish(tmp_path, **RUN)
    assert (manifest.counts["num_trajectories"], manifest.counts["num_doubled"]) == (1, 1)
    (kept,) = TrajectoryStore(tmp_path)
    assert kept.response == first.response


def test_nothing_collected_and_another_run(tmp_path: Path, make: Make) -> None:
    with pytest.raises(StageError, match="0 of 0 trajectories"):
        finish(tmp_path / "empty", **RUN)
    collect(tmp_path / "a", [make(0)])
    with pytest.raises(StageError, match="another recipe"):
        finish(tmp_path / "a", fingerprint="f2", settings=SETTINGS, seconds=0)


@pytest.mark.parametrize("moment", ["second shard", "card", "manifest", "cleaning"])
def test_finish_killed_at_any_moment_can_run_again(
    tmp_path: Path,
    make: Make,
    says: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    everything = [make(i) for i in range(9)]
    TrajectoryWriter(tmp_path).append(everything)
    where, name = {
        "second shard": (store_module, "write_bytes"),
        "card": (store_module, "write_text"),
        "manifest": (store_module, "write_manifest"),
        "cleaning": (store_module, "remove"),
    }[moment]
    real, calls = getattr(where, name), []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if moment in ("card", "manifest") or len(calls) > 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, killed)
    monkeypatch.setattr(store_module, "ROWS_PER_FILE", 5)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, **RUN)
    monkeypatch.undo()
    if moment != "cleaning":
        with pytest.raises(StageError, match="no finished collection"):
            TrajectoryStore(tmp_path)
    monkeypatch.setattr(store_module, "ROWS_PER_FILE", 4)
    finish(tmp_path, **RUN)  # other shard names than the first attempt's
    assert [says(t) for t in TrajectoryStore(tmp_path)] == [says(t) for t in everything]
    shards = sorted(p.name for p in (tmp_path / "data").iterdir())
    if moment != "cleaning":
        assert shards == [f"chunk-0000{k}.parquet" for k in range(3)]
    assert not (tmp_path / "partial").exists()


def test_an_unfinished_or_missing_collection(tmp_path: Path, make: Make) -> None:
    TrajectoryWriter(tmp_path).append([make(0)])
    with pytest.raises(StageError, match=r"no manifest\.json"):
        TrajectoryStore(tmp_path)
    with pytest.raises(StageError, match="nowhere"):
        TrajectoryStore(tmp_path / "nowhere")
    from tabom.core.manifest import write_manifest

    shutil.rmtree(tmp_path / "partial")
    mark = Mark(stage="train", fingerprint="f", settings={})
    write_manifest(tmp_path, mark, counts={}, seconds=0)
    with pytest.raises(StageError, match="holds stage 'train', expected 'collect'"):
        TrajectoryStore(tmp_path)


def test_damaged_files_are_named(tmp_path: Path, make: Make) -> None:
    store = collect(tmp_path, [make(i) for i in range(300)])
    path = tmp_path / "data" / "chunk-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"chunk-00000\.parquet: \d+ bytes, the manifest"):
        TrajectoryStore(tmp_path)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        TrajectoryStore(path)
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1  # one bit; Parquet reads another number, or fails much later
    path.write_bytes(changed)
    damaged = TrajectoryStore(tmp_path)  # the hash is read when the rows are
    with pytest.raises(DataError, match=r"chunk-00000\.parquet: changed since"):
        next(iter(damaged))
    path.write_bytes(whole[:4] + bytes(b ^ 0x55 for b in whole[4:400]) + whole[400:])
    with pytest.raises(DataError, match=r"chunk-00000\.parquet"):
        list(store)
    path.unlink()
    with pytest.raises(DataError, match=r"chunk-00000\.parquet: 0 bytes"):
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
        list(TrajectoryStore(path))


def test_one_file_is_a_store_without_a_manifest(tmp_path: Path, make: Make) -> None:
    collect(tmp_path / "run", [make(i) for i in range(3)])
    path = tmp_path / "run/data/chunk-00000.parquet"
    file = TrajectoryStore(path)
    assert (file.manifest, len(file)) == (None, 3)
    assert ids_of(file) == ["id-0000", "id-0001", "id-0002"]
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="trajectory schema none"):
        TrajectoryStore(tmp_path / "x.parquet")


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
    TrajectoryWriter(tmp_path).append([make(1, id=f"{i:05d}") for i in range(num_rows)])
    del one
    gc.collect()
    monkeypatch.setattr(Trajectory, "__post_init__", counted)
    finish(tmp_path, **RUN)
    assert peak == 0  # rows are moved as columns
    assert sum(1 for _ in TrajectoryStore(tmp_path)) == num_rows
    assert peak <= 2 * store_module.READ_ROWS


def test_datasets_opens_the_folder_offline(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(store_module, "ROWS_PER_FILE", 3)
    collect(tmp_path / "run", [make(i) for i in range(7)])
    rows = datasets.load_dataset(
        str(tmp_path / "run"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 7
    assert rows[4]["id"] == "id-0004"
    assert rows[4]["step"] == make(4).step_N.tolist()
    assert rows[4]["order"] == make(4).order_N.tolist()


def test_a_file_is_hashed_once_a_process(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = collect(tmp_path, [make(i) for i in range(3)])
    hashed: list[Path] = []
    real = manifest_module.describe_file
    monkeypatch.setattr(
        manifest_module, "describe_file", lambda path: (hashed.append(path), real(path))[1]
    )
    for _ in range(3):
        assert ids_of(store) == ids_of(TrajectoryStore(tmp_path))
    assert [path.suffix for path in hashed] == [".parquet"]


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", "ünï", "a\nb"])
def test_what_was_appended_is_done_and_kept(
    tmp_path: Path, make: Make, says: Callable[..., Any], name: str
) -> None:
    writer = TrajectoryWriter(tmp_path)
    assert writer.done() == set()
    writer.append([])
    assert not tmp_path.joinpath("partial").exists()
    batch = [make(1, id=name), make(2), make(3)]
    writer.append(batch[:1])
    writer.append(batch[1:])
    assert writer.done() == {t.id for t in batch}
    assert [says(kept.trajectory) for kept in TrajectoryWriter(tmp_path).kept()] == [
        says(t) for t in batch
    ]


def test_the_entropies_of_every_step_are_kept_beside_a_response(tmp_path: Path, make: Make) -> None:
    first, second, third = make(1), make(2), make(3)
    field = np.random.default_rng(0).random((5, first.num_slots)).astype(np.float32)
    field[2, 0] = np.nan
    writer = TrajectoryWriter(tmp_path)
    writer.append([first, second], [field, None])
    writer.append([third])
    found = [kept.field_KN for kept in writer.kept()]
    assert found[1:] == [None, None]
    np.testing.assert_array_equal(found[0], field)
    finish(tmp_path, **RUN)
    assert pq.read_schema(tmp_path / "data/chunk-00000.parquet").names == SCHEMA.names


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cut_and_no_flipped_bit_of_a_partial_file_goes_unseen(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        writer = TrajectoryWriter(name)
        writer.append([MADE])
        (path,) = Path(name, "partial").iterdir()
        whole = path.read_bytes()
        if data.draw(st.booleans()):
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        else:
            bit = data.draw(st.integers(0, 8 * len(whole) - 1))
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
        assert writer.done() == set()
        assert list(writer.kept()) == []
        writer.append([MADE])
        counts = finish(name, **RUN).counts
        assert (counts["num_trajectories"], counts["num_torn"]) == (1, 1)


def test_foreign_things_in_the_partial_folder_are_left_alone(tmp_path: Path, make: Make) -> None:
    writer = TrajectoryWriter(tmp_path)
    writer.append([make(0)])
    (ours,) = (tmp_path / "partial").iterdir()
    os.mkfifo(tmp_path / "partial" / "pipe.arrow")
    os.mkfifo(ours.with_name("1" + ours.name[1:]))  # a pipe that bears a name of ours
    (tmp_path / "partial" / ".half.arrow.tmp").write_bytes(b"what a kill leaves")
    (tmp_path / "partial" / "folder").mkdir()
    (tmp_path / "partial" / "notes.txt").write_text("mine")
    found: list[set[str]] = []
    thread = threading.Thread(target=lambda: found.append(writer.done()), daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert found == [{"id-0000"}]
    # Whole files that bear a name of ours, and hold something else.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("id", pa.string())])) as file:
        file.write_batch(pa.record_batch([["x"]], names=["id"]))
    for content in (b"garbage", sink.getvalue().to_pybytes()):
        name = f"{len(content):020d}-00000000-{zlib.crc32(content):08x}.arrow"
        (tmp_path / "partial" / name).write_bytes(content)
    assert writer.done() == {"id-0000"}
    assert finish(tmp_path, **RUN).counts["num_torn"] == 2


def test_a_full_disk_keeps_what_was_there_and_nothing_of_the_batch(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TrajectoryWriter(tmp_path)
    writer.append([make(0)])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.append([make(1)])
    monkeypatch.undo()
    assert len(list((tmp_path / "partial").iterdir())) == 1
    writer.append([make(2)])
    assert writer.done() == {"id-0000", "id-0002"}


def test_a_batch_is_one_file_that_is_synced_before_it_has_its_name(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (calls.append(n), r(*a))[1])
    TrajectoryWriter(tmp_path).append([make(i) for i in range(5)])
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder
    assert len(list((tmp_path / "partial").iterdir())) == 1


def test_several_may_finish_together(tmp_path: Path, make: Make) -> None:
    TrajectoryWriter(tmp_path).append([make(i) for i in range(40)])
    manifests: list[Any] = []
    threads = [
        threading.Thread(target=lambda: manifests.append(finish(tmp_path, **RUN))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(manifests) == 4
    assert all(m == manifests[0] for m in manifests)
    assert len(ids_of(TrajectoryStore(tmp_path))) == 40


def test_a_batch_that_comes_while_another_finishes_is_no_error(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TrajectoryWriter(tmp_path)

    def removed(*_: Any) -> None:
        raise FileNotFoundError("partial/ went between two steps of a write")

    monkeypatch.setattr(store_module, "write_bytes", removed)
    with pytest.raises(FileNotFoundError):
        writer.append([make(0)])
    monkeypatch.undo()
    writer.append([make(0)])
    finish(tmp_path, **RUN)
    monkeypatch.setattr(store_module, "write_bytes", removed)
    writer.append([make(0)])  # all is in the finished store
    monkeypatch.undo()
    writer.append([make(0)])  # a late one leaves its file, and the next finish removes it
    finish(tmp_path, **RUN)
    assert not (tmp_path / "partial").exists()
    assert ids_of(TrajectoryStore(tmp_path)) == ["id-0000"]
