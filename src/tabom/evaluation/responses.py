"""Responses on disk as they are decoded: a stopped evaluation goes on where it was.

Legend: K steps (model calls), N response slots.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from tabom.core.place import subfolders
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.trajectory.store import Kept, TrajectoryWriter


class Responses:
    """The responses to some requests under one decoding: kept as they come, read back when resumed.

    found: those that are there, by id. Whoever decodes what is `missing` gives each one to `add`.
    """

    def __init__(self, folder: Path | None) -> None:
        """folder: of these requests under these settings alone, which the caller sees to; made with
        the first response. None: memory alone."""
        self._writer = None if folder is None else TrajectoryWriter(folder)
        self._waiting: list[Kept] = []
        # What several workers answered lies in a folder for each of their chunks.
        names = () if folder is None else subfolders(folder, "chunk-")
        writers = [TrajectoryWriter(folder / name) for name in names] if folder else []
        kept = chain.from_iterable(w.kept() for w in (self._writer, *writers) if w)
        self.found = {one.trajectory.id: one for one in kept}

    def missing(
        self, requests: Sequence[DecodeRequest], decoder: Decoder, *, num_fields: int = 0
    ) -> Iterator[tuple[Sequence[DecodeRequest], bool]]:
        """What is left to decode, in parts that are decoded one after the other.

        A published function sees whole batches, so it goes on at the start of one; where it draws,
        it has one stream for a batch, so each response is decoded alone. Then a result depends
        neither on the batch nor on where an evaluation was stopped.

        num_fields: of the first so many the entropies at every step are kept, which each part says.
        """
        # In two parts, since a field is K x N numbers. Draws are keyed: no answer changes.
        for part, has_field in ((requests[:num_fields], True), (requests[num_fields:], False)):
            left = [request for request in part if request.id not in self.found]
            if decoder.config.is_official and left:
                if _draws(decoder.config):
                    yield from (([request], has_field) for request in left)
                    continue
                start = part.index(left[0])
                left = list(part[start - start % decoder.batch_size :])
            yield left, has_field

    def add(self, item: Decoded) -> None:
        """Keep a response; it is on disk when this returns, or with those that ended with it."""
        one = Kept(item.trajectory, item.field_KN)
        # A published function gives some a second time, since it sees whole batches.
        if self.found.setdefault(one.trajectory.id, one) is one:
            self._waiting.append(one)
        if self._writer is not None and not item.num_following:
            waiting, self._waiting = self._waiting, []
            self._writer.append([w.trajectory for w in waiting], [w.field_KN for w in waiting])


def _draws(config: DecodingConfig) -> bool:
    """Whether the official function draws anything."""
    return bool(config.temperature > 0 or config.alg_temp or config.policy in ("origin", "random"))
