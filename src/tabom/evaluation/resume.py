"""Responses of an evaluation on disk as they are decoded: a killed one goes on where it was.

Legend: K steps (model calls), N response slots.
"""

import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from tabom.decoding.config import DecodingConfig
from tabom.decoding.loop import Decoded, DecodeRequest, decode
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.partial import TrajectoryWriter, parse_row, read_lines
from tabom.trajectory.record import Trajectory


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
    seed, batch_size, record_field: see `decode`.
    Raises: what `decode` raises; DataError if a kept line is not a response.
    """
    found = {} if folder is None else _read(folder)
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
    with ExitStack() as stack:
        writer: TrajectoryWriter | None = None
        for item in decode(
            model,
            missing,
            config,
            seed=seed,
            batch_size=batch_size,
            is_ordered=False,  # on disk as soon as it is decoded
            record_field=record_field,
        ):
            if folder is not None:
                if writer is None:  # settings that do not go with the model leave no file
                    writer = stack.enter_context(TrajectoryWriter(folder))
                writer.append(_packed(item))
            yield item


def _has_draws(config: DecodingConfig) -> bool:
    """Whether the official function draws anything."""
    return bool(config.temperature > 0 or config.alg_temp or config.policy in ("origin", "random"))


def _packed(item: Decoded) -> Trajectory:
    """The trajectory with its field beside its row: one line, under one checksum."""
    field = None
    if item.field_KN is not None:
        field = b64encode(np.asarray(item.field_KN, dtype="<f4").tobytes()).decode()
    return replace(item.trajectory, row={"row": item.trajectory.row, "field": field})


def _unpacked(packed: Trajectory) -> Decoded:
    row, field = packed.row["row"], packed.row["field"]
    trajectory = replace(packed, row=row)
    if field is None:
        return Decoded(trajectory=trajectory)
    values = np.frombuffer(b64decode(field), dtype="<f4")
    return Decoded(trajectory=trajectory, field_KN=values.reshape(-1, trajectory.num_slots))


def _read(folder: Path) -> dict[str, Decoded]:
    return {
        line.id: _unpacked(parse_row(line.payload, place=line.place)) for line in read_lines(folder)
    }
