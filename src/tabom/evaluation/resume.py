"""Responses of an evaluation on disk as they are decoded: a killed one goes on where it was."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.store import TrajectoryWriter


def decode_resuming(
    model: MaskedDiffusionModel,
    requests: Sequence[DecodeRequest],
    config: DecodingConfig,
    *,
    folder: Path | None,
    seed: int,
    batch_size: int,
    record_field: bool,
) -> Iterator[Decoded]:
    """Yield the response of every request, in no order: those on disk first, then the rest.

    Each is on disk before it is yielded. An official function sees whole batches, and one stream
    of draws for all: it goes on at the start of a batch, or begins anew where it draws.

    folder: of these requests under these settings alone, which the caller sees to; made with the
        first response. None: nothing is kept.
    seed, batch_size, record_field: see `Decoder`.
    Raises: what `Decoder` raises; DataError if a kept file holds no responses.
    """
    writer = None if folder is None else TrajectoryWriter(folder)
    found: dict[str, Decoded] = {}
    if writer is not None:
        for kept in writer.kept():
            decoded = Decoded(trajectory=kept.trajectory, field_KN=kept.field_KN)
            found[kept.trajectory.id] = decoded
    missing = [request for request in requests if request.id not in found]
    if folder is not None and found and missing and config.is_official:
        start = requests.index(missing[0])
        start = 0 if _has_draws(config) else start - start % batch_size
        if start == 0:
            shutil.rmtree(folder)
        missing = list(requests[start:])
        found = {request.id: found[request.id] for request in requests[:start]}
    yield from (found[request.id] for request in requests if request.id in found)
    if not missing:
        return
    decoder = Decoder(model, config, seed=seed, batch_size=batch_size)
    finished: list[Decoded] = []
    for item in decoder.decode(missing, record_field=record_field):
        finished.append(item)
        if item.num_following:
            continue  # what ends together is one file
        if writer is not None:
            fields = [done.field_KN for done in finished] if record_field else None
            writer.append([done.trajectory for done in finished], fields)
        yield from finished
        finished = []


def _has_draws(config: DecodingConfig) -> bool:
    """Whether the official function draws anything."""
    return bool(config.temperature > 0 or config.alg_temp or config.policy in ("origin", "random"))
