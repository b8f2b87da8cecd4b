"""Work cut into chunks, which any number of processes take, die over, and take again.

Everything that decides lies in the folder (a path or a URL), and nothing in a message:

    chunks.json                     the fingerprint and the ranges, made once
    data/chunk-00017.parquet        a finished chunk: created whole, and never again
    attempts/chunk-00017-1          who works on it; created before the work, it is the claim
    attempts/chunk-00017-split      it killed too many workers; chunk-00017.00, ... instead
    attempts/chunk-00017.03-failed  one item that kills alone: given up

A chunk has one content whoever makes it, so two workers on one chunk waste time and spoil nothing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.core.atomic import create, read_json, write_bytes
from tabom.core.attempts import Attempt, Chunk, is_over
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import FileFacts
from tabom.core.place import Entry, Place, entries, local_folder, place, remove
from tabom.core.plain import canonical_json
from tabom.core.preempt import Preemption

PLAN, DATA, ATTEMPTS, SPOOL = "chunks.json", "data", "attempts", "spool"
_END = "end"  # the name of the attempts to finish
_WAIT_S = 1.0
_READERS = 16  # small objects read at one time


def cut(num_items: int, size: int, *, batch: int = 1) -> list[tuple[int, int]]:
    """Ranges of `size` items, the last one shorter. batch: items that a range holds a multiple of,
    where it holds as many, so that no small batch ends it."""
    size = max(size // batch * batch, min(size, batch))
    return [(start, min(start + size, num_items)) for start in range(0, num_items, size)]


@dataclass(frozen=True)
class Status:
    """How far a folder's chunks are; rows are counted at each worker's last sign of life."""

    num_rows: int
    num_rows_done: int
    num_chunks: int
    num_done: int
    num_running: int
    num_lost: int
    num_slow: int
    num_split: int
    num_failed: int
    rows_per_hour: float
    seconds_left: float | None


class Chunks:
    """The chunks of one folder.

    folder: path or URL. size: items of a chunk. max_retries: deaths over a chunk before it is
    split, or given up if it is one item. share: (K, N), this is worker K of N, which says where it
    begins to look. waits: for the chunks of others to be done or free, where none is left to take.
    suffix: of an object's name. is_over: whether another worker has finished the whole.
    """

    def __init__(
        self,
        folder: Place,
        *,
        size: int = 256,
        max_retries: int = 3,
        share: tuple[int, int] = (0, 1),
        waits: bool = False,
        suffix: str = ".parquet",
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_over = is_over
        self.folder, self.suffix = place(folder), suffix
        self.size, self.max_retries, self.share, self.waits = size, max_retries, share, waits
        self.plan: list[Chunk] = []
        self.facts: dict[str, Any] = {}
        self._data: dict[str, Entry] = {}
        self._marks: dict[str, list[str]] = {}
        self._fresh: list[Chunk] = []

    # -- the plan --

    def begin(
        self,
        fingerprint: str,
        make: Callable[[], Mapping[str, list[tuple[int, int]]]],
        **facts: Any,
    ) -> None:
        """Read the plan, or make it: of those that come together one makes it.

        make: gives the ranges of each group. facts: what else the plan says.
        Raises: StageError for the chunks of another run.
        """
        if not (self.folder / PLAN).is_file():
            plan = {"fingerprint": fingerprint, **facts, "ranges": make()}
            create(self.folder / PLAN, canonical_json(plan).encode())
        self.read()
        if self.facts["fingerprint"] != fingerprint:
            raise StageError(
                f"{self.folder}: its chunks have the fingerprint {self.facts['fingerprint']}, this "
                f"run's is {fingerprint}; take another --output_dir, or pass --overwrite"
            )
        self.scan()
        self._fresh = self._mine([c for c in self.left() if c.name not in self._marks])

    def read(self) -> None:
        """Read the plan of a folder. DataError if there is none."""
        content = read_json(self.folder / PLAN)
        ranges = [(g, *r) for g, found in content.pop("ranges").items() for r in found]
        self.facts = content
        self.plan = [
            Chunk(f"chunk-{i:05d}", start, end, group)
            for i, (group, start, end) in enumerate(ranges)
        ]

    @property
    def num_items(self) -> int:
        return sum(chunk.size for chunk in self.plan)

    def scan(self) -> None:
        """Look what is done and who is at work: two listings, no object is read.

        Raises: StageError if the folder was removed meanwhile.
        """
        if self.plan and not (self.folder / PLAN).is_file():
            if self.is_over():
                self.plan, self._data, self._marks = [], {}, {}
                return
            raise StageError(f"{self.folder} was removed or emptied during the run; run it again")
        self._data = {
            e.name.removesuffix(self.suffix): e
            for e in entries(self.folder / DATA)
            if e.name.endswith(self.suffix)
        }
        self._marks = {}
        for entry in entries(self.folder / ATTEMPTS):
            name, _, mark = entry.name.rpartition("-")
            self._marks.setdefault(name, []).append(mark)

    def leaves(self) -> Iterator[Chunk]:
        """The chunks in their order, those that were split by their parts."""
        waiting = self.plan[::-1]
        while waiting:
            chunk = waiting.pop()
            if chunk.name not in self._data and "split" in self._marks.get(chunk.name, ()):
                waiting += chunk.parts()[::-1]
            else:
                yield chunk

    def left(self) -> list[Chunk]:
        """What is neither done nor given up, at the last look."""
        return [
            c
            for c in self.leaves()
            if c.name not in self._data and "failed" not in self._marks.get(c.name, ())
        ]

    def failed(self) -> list[tuple[Chunk, str]]:
        """The items that were given up, each with what is known of why."""
        found = [c for c in self.leaves() if "failed" in self._marks.get(c.name, ())]
        return [(c, str(self._read(c, "failed").get("why", ""))) for c in found]

    @property
    def num_done(self) -> int:
        """Items of finished chunks, at the last look."""
        return sum(c.size for c in self.leaves() if c.name in self._data)

    def num_traces(self) -> int:
        """A number that grows with every attempt and every finished chunk."""
        self.scan()
        return len(self._data) + sum(map(len, self._marks.values()))

    # -- taking, and giving back --

    def take(self) -> Attempt | None:
        """A chunk to work on: one that nobody began, else one whose worker died.

        Returns: None if all that is left is done, or in the hands of others.
        """
        while self._fresh:
            if (found := self._claim(self._fresh.pop(0), 1)) is not None:
                return found
        while True:
            self.scan()
            is_split = False
            for chunk in self._mine(self.left()):
                tries = self._tries(chunk)
                if tries and not self._is_dead(chunk, tries[-1]):
                    continue
                if len(tries) >= self.max_retries:
                    is_split |= self._give_up(chunk, tries)
                elif (found := self._claim(chunk, len(tries) + 1)) is not None:
                    return found
            if not is_split:
                return None

    def attempts(self, stop: Preemption) -> Iterator[Attempt]:
        """Chunks to work on, one after the other, until `stop` is asked or nothing is left.

        Each is a context of its own, so that an error in the work is seen there.
        """
        while not stop.is_asked:
            if (found := self.take()) is not None:
                yield found
            elif self.waits and self.left():
                time.sleep(_WAIT_S)
            else:
                return
        stop.stop()

    def put(self, attempt: Attempt, data: bytes, **facts: Any) -> None:
        """Make a chunk's object. If another worker was first, its object stays: it says the same.

        facts: counts, which are kept beside its hash.
        """
        path = self.path_of(attempt.chunk)
        attempt.state = "late"
        if create(path, data):
            attempt.state, attempt.facts = "done", {"file": facts_of(data), "counts": facts}
        write_bytes(attempt.path, attempt.text())
        self._data[attempt.chunk.name] = Entry(path.name, len(data), time.time())

    def describe(
        self, read: Callable[[Chunk, bytes, Path], dict[str, Any]]
    ) -> dict[str, tuple[FileFacts, dict[str, Any]]]:
        """File and counts of each finished chunk, in order, by its path in the folder.

        read: counts of an object whose worker died before it could say them.
        """
        self.scan()
        done = [c for c in self.leaves() if c.name in self._data]

        def one(chunk: Chunk) -> tuple[FileFacts, dict[str, Any]]:
            for mark in self._tries(chunk)[::-1]:
                said = self._read(chunk, mark)
                if said.get("state") == "done":
                    file = FileFacts(**said["file"])
                    if file.bytes == self._data[chunk.name].size:
                        return file, said["counts"]
            path = self.path_of(chunk)
            data = path.read_bytes()
            return FileFacts(**facts_of(data)), read(chunk, data, path)

        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(one, done))
        return {f"{DATA}/{self.path_of(c).name}": f for c, f in zip(done, found, strict=True)}

    def path_of(self, chunk: Chunk) -> Path:
        """Where a chunk's object is, or will be."""
        return self.folder / DATA / f"{chunk.name}{self.suffix}"

    def end(self) -> Attempt | None:
        """The right to finish the whole, which one worker has at a time.

        Returns: None if it is finished, or (for a worker that does not wait) about to be.
        """
        last = Chunk(_END, 0, 0)
        while not self.is_over():
            self.scan()
            tries = self._tries(last)
            if not tries or self._is_dead(last, tries[-1]):
                if (found := self._claim(last, len(tries) + 1)) is not None:
                    return found
            elif not self.waits:
                break
            else:
                time.sleep(_WAIT_S)
        return None

    @property
    def spool(self) -> Path:
        """A folder of this machine for what chunks in work have so far."""
        return local_folder(self.folder) / SPOOL

    def clear(self, keep: Iterable[str]) -> None:
        """Remove the attempts, and objects that are not kept: of split chunks done after all."""
        remove(self.folder / ATTEMPTS)
        for name in {f"{DATA}/{e.name}" for e in entries(self.folder / DATA)} - set(keep):
            remove(self.folder / name)

    def status(self) -> Status:
        """Look at the folder: done, running, lost (no sign of life), slow (thrice the mean)."""
        if not self.plan:
            self.read()
        self.scan()
        left = self.left()
        begun = [c for c in left if self._tries(c)]
        with ThreadPoolExecutor(_READERS) as pool:
            said = list(pool.map(lambda c: self._read(c, self._tries(c)[-1]), begun))
        running = [s for s in said if not is_over(s)]
        ended = [c for c in self.leaves() if c.name in self._data]
        times = [self._data[c.name].modified for c in ended]
        fresh = sum(said["rows"] for said in running)
        done, now = self.num_done + fresh, time.time()
        # Of the last hour, or since the beginning; a stop in between makes it too low.
        since = max(min([*times, *(said["started"] for said in running)], default=now), now - 3600)
        seconds = (now if running else max(times, default=now)) - since
        fresh += sum(c.size for c, at in zip(ended, times, strict=True) if at >= since)
        rate = fresh / seconds if seconds > 0 else 0.0
        # What a chunk takes on the mean, with so many in work at once.
        usual = self.size * len(running) / rate if rate else float("inf")
        return Status(
            num_rows=self.num_items,
            num_rows_done=done,
            num_chunks=len(ended) + len(left),
            num_done=len(ended),
            num_running=len(running),
            num_lost=len(said) - len(running),
            num_slow=sum(now - said["started"] > 3 * usual for said in running),
            num_split=sum("split" in marks for marks in self._marks.values()),
            num_failed=sum("failed" in marks for marks in self._marks.values()),
            rows_per_hour=round(3600 * rate, 1),
            seconds_left=(self.num_items - done) / rate if rate and running else None,
        )

    def _mine(self, chunks: list[Chunk]) -> list[Chunk]:
        """In the order in which this worker looks: its own first, and of each the longest first."""
        rank, num = self.share
        order = {c.name: i for i, c in enumerate(self.plan)}

        def key(chunk: Chunk) -> tuple[bool, int]:
            number = order[chunk.name.partition(".")[0]]
            return number % num != rank, -number

        return sorted(chunks, key=key)

    def _claim(self, chunk: Chunk, number: int) -> Attempt | None:
        attempt = Attempt(chunk, self.folder / ATTEMPTS / f"{chunk.name}-{number}")
        return attempt if create(attempt.path, attempt.text()) else None

    def _tries(self, chunk: Chunk) -> list[str]:
        """The numbers of its attempts, in order."""
        marks = self._marks.get(chunk.name, ())
        return sorted((m for m in marks if m.isdecimal()), key=int)

    def _read(self, chunk: Chunk, mark: str) -> dict[str, Any]:
        """What an attempt says; one that is gone or torn says nothing, and so is over."""
        with suppress(DataError, OSError):
            found = read_json(self.folder / ATTEMPTS / f"{chunk.name}-{mark}")
            if isinstance(found, dict):
                return found
        return {}

    def _is_dead(self, chunk: Chunk, mark: str) -> bool:
        return is_over(self._read(chunk, mark))

    def _give_up(self, chunk: Chunk, tries: list[str]) -> bool:
        """Split a chunk, or give up its one item; whether there is something new to take."""
        why = [self._read(chunk, mark).get("why", "its worker died") for mark in tries]
        mark = "split" if chunk.size > 1 else "failed"
        text = json.dumps({"why": f"{len(tries)} attempts: {'; '.join(dict.fromkeys(why))}"})
        create(self.folder / ATTEMPTS / f"{chunk.name}-{mark}", text.encode())
        self._marks[chunk.name].append(mark)
        return mark == "split"


def facts_of(data: bytes) -> dict[str, Any]:
    """Hash and size of an object, as a manifest says them."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
