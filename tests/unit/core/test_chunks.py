"""Chunks: cut, taken, died over, split, given up; every item exactly once, whoever works."""

import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core import attempts as module
from tabom.core.attempts import Chunk
from tabom.core.chunks import Chunks, cut, facts_of
from tabom.core.errors import StageError
from tabom.core.place import place, remove
from tabom.core.preempt import Preemption


@given(num=st.integers(0, 3000), size=st.integers(1, 400))
def test_ranges_cover_every_item_once(num: int, size: int) -> None:
    ranges = cut(num, size)
    assert [i for start, end in ranges for i in range(start, end)] == list(range(num))
    assert all(end - start == size for start, end in ranges[:-1])


@given(start=st.integers(0, 50), size=st.integers(2, 700))
def test_parts_cover_their_chunk_and_end_with_single_items(start: int, size: int) -> None:
    levels = 0
    whole = [Chunk("chunk-00003", start, start + size, "g")]
    while any(c.size > 1 for c in whole):
        whole = [part for c in whole for part in (c.parts() if c.size > 1 else [c])]
        levels += 1
    assert [c.start for c in whole] == list(range(start, start + size))
    assert len({c.name for c in whole}) == size
    assert {c.group for c in whole} == {"g"}
    assert levels <= 3


class World:
    """Workers that come and go, in one process: who is dead is what this says."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.dead: set[int] = set()
        self.now = 1
        here = classmethod(lambda cls: cls("box", self.now, "b"))
        patch.setattr(module._Worker, "here", here)
        patch.setattr(module._Worker, "is_gone", lambda worker, beat: worker.pid in self.dead)


@pytest.mark.parametrize("root", ["local", "memory"])
def test_whoever_dies_every_item_is_done_once_and_killers_are_named(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        world = World(monkeypatch)
        num, size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 20))
        killers = data.draw(st.sets(st.integers(0, num - 1), max_size=3))
        retries = data.draw(st.integers(1, 3))
        chance = random.Random(data.draw(st.integers(0, 999)))
        with tempfile.TemporaryDirectory() as name:
            folder = name if root == "local" else f"memory://chunks/{world.__hash__()}"
            made: list[str] = []
            for _ in itertools.count():
                world.now += 1
                share = (chance.randrange(3), 3)
                mine = Chunks(folder, size=size, max_retries=retries, share=share)
                mine.begin("f", lambda: {"": cut(num, size)})
                while (attempt := mine.take()) is not None:
                    chunk = attempt.chunk
                    if killers.intersection(range(chunk.start, chunk.end)):
                        world.dead.add(world.now)
                        break
                    if chance.random() < 0.1:  # gives it back
                        remove(attempt.path)
                        break
                    mine.put(attempt, json.dumps([*range(chunk.start, chunk.end)]).encode(), n=1)
                    made.append(chunk.name)
                else:
                    break
            assert mine.left() == []
            assert len(made) == len(set(made))
            described = mine.describe(lambda *_: pytest.fail("every worker said what it made"))
            items = [i for n in described for i in json.loads(place(f"{folder}/{n}").read_bytes())]
            assert items == [i for i in range(num) if i not in killers]
            assert {c.start for c, _ in mine.failed()} == killers
            assert all(f"{retries} attempts" in why for _, why in mine.failed())
            status = mine.status()
            assert status.num_failed == len(killers)
            assert status.num_rows_done == num - len(killers)
            mine.clear(described)
            assert not (place(folder) / "attempts").exists()

    check()


def test_the_living_keep_their_chunk_and_the_silent_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch)
    one, two = Chunks(tmp_path, size=5), Chunks(tmp_path, size=5)
    for each in (one, two):
        each.begin("f", lambda: {"": cut(5, 5)})
    attempt = one.take()
    assert attempt is not None
    world.now = 2
    assert two.take() is None
    assert (two.status().num_running, two.status().num_lost) == (1, 0)
    world.dead.add(1)
    assert two.status().num_lost == 1
    again = two.take()
    assert again is not None
    assert again.path.name == "chunk-00000-2"
    # The first was alive after all: the second object is not written, and both say the same.
    one.put(attempt, b"content", rows=5)
    two.put(again, b"content", rows=5)
    ((name, (file, counts)),) = one.describe(lambda *_: {}).items()
    assert name == "data/chunk-00000.parquet"
    assert vars(file) == facts_of(b"content")
    assert counts == {"rows": 5}


def test_errors_of_the_user_give_a_chunk_back_and_others_count(tmp_path: Path) -> None:
    mine = Chunks(tmp_path, size=2, max_retries=2)
    mine.begin("f", lambda: {"": cut(2, 2)})
    for error in (StageError("no"), KeyboardInterrupt()):
        attempt = mine.take()
        assert attempt is not None
        with pytest.raises(type(error)):
            with attempt:
                raise error
        assert mine.status().num_lost == 0
    for _ in range(2):
        attempt = mine.take()
        assert attempt is not None
        with pytest.raises(RuntimeError):
            with attempt:
                raise RuntimeError("CUDA error")
    for number in range(2):  # now in two parts
        for _ in range(2):
            attempt = mine.take()
            assert attempt is not None
            assert attempt.chunk.size == 1
            with pytest.raises(RuntimeError):
                with attempt:
                    raise RuntimeError(f"bad {number}")
    assert mine.take() is None
    assert all("RuntimeError: bad" in why for _, why in mine.failed())
    assert len(mine.failed()) == 2


def test_another_fingerprint_and_a_removed_folder(tmp_path: Path) -> None:
    mine = Chunks(tmp_path / "a", size=2)
    mine.begin("f", lambda: {"": cut(4, 2)})
    with pytest.raises(StageError, match="fingerprint f, this run's is g"):
        Chunks(tmp_path / "a").begin("g", lambda: {"": cut(4, 2)})
    remove(tmp_path / "a")
    with pytest.raises(StageError, match="was removed or emptied"):
        mine.scan()


def test_sigterm_ends_between_two_chunks(tmp_path: Path) -> None:
    import os
    import signal

    mine = Chunks(tmp_path, size=2)
    mine.begin("f", lambda: {"": cut(6, 2)})
    done: list[Any] = []

    def work() -> None:
        with Preemption(signal.SIGTERM) as stop:
            for attempt in mine.attempts(stop):
                with attempt:
                    mine.put(attempt, b"x")
                    done.append(attempt.chunk)
                    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        work()
    assert stopped.value.code == 143
    assert len(done) == 1
