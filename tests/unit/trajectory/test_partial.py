import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.errors import DataError
from tabom.trajectory import partial
from tabom.trajectory.partial import (
    Torn,
    TrajectoryWriter,
    decode_line,
    encode_line,
    parse_row,
    read_lines,
    scan_partial,
)
from tabom.trajectory.record import Trajectory

Make = Callable[..., Trajectory]


def test_a_line_round_trips_exactly(make: Make, says: Callable[..., Any]) -> None:
    for i in range(30):
        line = encode_line(make(i))
        assert line.count(b"\n") == 1
        payload = decode_line(line)
        assert payload is not None
        assert says(parse_row(payload, place="p")) == says(make(i))


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", 'end\\"', "ünï", "a\nb"])
def test_the_id_is_found_without_parsing_the_row(tmp_path: Path, make: Make, name: str) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        writer.append(make(1, id=name))
    assert scan_partial(tmp_path) == {name}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_cut_and_no_flipped_bit_goes_unseen(make_line: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(make_line) - 1))
    assert decode_line(make_line[:cut]) is None
    bit = data.draw(st.integers(0, 8 * len(make_line) - 1))
    damaged = bytearray(make_line)
    damaged[bit // 8] ^= 1 << (bit % 8)
    assert decode_line(bytes(damaged)) is None


@pytest.fixture(scope="module")
def make_line() -> bytes:
    import numpy as np

    one = np.ones(2, dtype=np.float32)
    return encode_line(
        Trajectory(
            id="x", prompt="p", prompt_ids=[1], response="r", response_ids_N=[1, 2],
            step_N=[0, 1], entropy_N=one, confidence_N=one, num_forwards=2,
        )
    )  # fmt: skip


def test_torn_lines_are_dropped_and_counted(tmp_path: Path, make: Make) -> None:
    with TrajectoryWriter(tmp_path, rank=3) as writer:
        writer.append_many([make(0), make(1), make(2)])
    assert writer.num_written == 3
    assert writer.path.name.startswith("traj-00003-")
    lines = writer.path.read_bytes().splitlines(keepends=True)
    writer.path.write_bytes(lines[0] + lines[1].replace(b"answer", b"anXwer") + lines[2][:-1])
    torn = Torn()
    good = list(read_lines(tmp_path, torn))
    assert [line.id for line in good] == ["id-0000"]
    assert torn.count == 2
    assert scan_partial(tmp_path) == {"id-0000"}


def test_two_attempts_never_share_a_file(tmp_path: Path, make: Make) -> None:
    with TrajectoryWriter(tmp_path) as first, TrajectoryWriter(tmp_path) as second:
        first.append(make(0))
        second.append(make(1))
        assert first.path != second.path
    places = [(line.path, line.offset, line.num_bytes) for line in read_lines(tmp_path)]
    for path, offset, num_bytes in places:
        assert path.read_bytes()[offset : offset + num_bytes].endswith(b"}\n")
    assert scan_partial(tmp_path) == {"id-0000", "id-0001"}
    assert scan_partial(tmp_path / "nowhere") == set()


def test_one_write_a_line_and_one_fsync_a_batch(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (calls.append(n), r(*a))[1])
    with TrajectoryWriter(tmp_path) as writer:
        calls.clear()
        writer.append(make(0))
        assert calls == ["write", "fsync"]
        calls.clear()
        writer.append_many([make(1), make(2)])
        assert calls == ["write", "write", "fsync"]


def test_a_full_disk_closes_the_writer_so_that_no_line_follows_a_torn_one(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def half_then_full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with TrajectoryWriter(tmp_path) as writer:
        writer.append(make(0))
        monkeypatch.setattr(partial.os, "write", half_then_full)
        with pytest.raises(OSError, match="No space"):
            writer.append(make(1))
        monkeypatch.undo()
        with pytest.raises(ValueError, match="the writer is closed"):
            writer.append(make(2))
    assert scan_partial(tmp_path) == {"id-0000"}


@pytest.mark.parametrize(
    "payload", [b"{", b"[]", b"{}", b'{"id":"x","entropy":[],"confidence":[]}', b'{"id": "x"}']
)
def test_a_row_that_is_none_names_its_place(payload: bytes) -> None:
    with pytest.raises(DataError, match=r"^here: .*; delete the line"):
        parse_row(payload, place="here")
