"""Responses on disk as they are decoded: a stopped evaluation goes on where it was.

Legend: K steps (model calls), N response slots.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.trajectory.store import TrajectoryWriter


class Responses:
    """The responses to some requests under one decoding: kept as they come, read back when resumed.

    Use it as a context manager around the decoding of what is `missing`.
    """

    def __init__(self, folder: Path | None) -> None:
        """folder: of these requests under these settings alone, which the caller sees to; made with
        the first response. None: memory alone."""
        self._writer = None if folder is None else TrajectoryWriter(folder)
        self._waiting: list[Decoded] = []
        self.found: dict[str, Decoded] = {}
        if self._writer is not None:
            for kept in self._writer.kept():
                decoded = Decoded(trajectory=kept.trajectory, field_KN=kept.field_KN)
                self.found[kept.trajectory.id] = decoded

    def __enter__(self) -> "Responses":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()

    def missing(
        self, requests: Sequence[DecodeRequest], decoder: Decoder
    ) -> list[Sequence[DecodeRequest]]:
        """What is left to decode, in parts that are decoded one after the other.

        A published function sees whole batches, so it goes on at the start of one; where it draws,
        it has one stream for a batch, so each response is decoded alone. Then a result depends
        neither on the batch nor on where an evaluation was stopped.
        """
        config, batch_size = decoder.config, decoder.batch_size
        left = [request for request in requests if request.id not in self.found]
        if not left or not config.is_official:
            return [left] if left else []
        if draws(config):
            return [[request] for request in left]
        start = requests.index(left[0])
        return [requests[start - start % batch_size :]]

    def add(self, item: Decoded) -> None:
        """Keep a response; it is on disk when this returns, or with those that ended with it."""
        if item.trajectory.id not in self.found:
            self._waiting.append(item)
        self.found[item.trajectory.id] = item
        if not item.num_following:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as one file."""
        waiting, self._waiting = self._waiting, []
        if self._writer is not None and waiting:
            self._writer.append(
                [item.trajectory for item in waiting], [item.field_KN for item in waiting]
            )


def draws(config: DecodingConfig) -> bool:
    """Whether the official function draws anything."""
    return bool(config.temperature > 0 or config.alg_temp or config.policy in ("origin", "random"))
