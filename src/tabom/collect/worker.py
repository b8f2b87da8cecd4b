"""Decode the prompts that are not on disk yet; finish the store when nothing is missing."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.collect.config import CollectionConfig
from tabom.collect.index import INDEX, Index, write_index
from tabom.collect.prompts import Prompt
from tabom.collect.speed import SpeedMeter
from tabom.core import keys
from tabom.core.atomic import replacing
from tabom.core.attempts import Chunk
from tabom.core.chunks import PLAN, Chunks, cut
from tabom.core.errors import DataError
from tabom.core.manifest import Manifest, Mark, check_manifest
from tabom.core.place import remove
from tabom.core.preempt import Preemption
from tabom.decoding.decoder import DecodeRequest
from tabom.decoding.engine import Engine
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.record import TRUNCATED, Trajectory
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import (
    STAGE,
    Spool,
    TrajectoryWriter,
    complete,
    read_object,
    to_object,
)

FAILED = "failed.parquet"


def make_requests(
    model: MaskedDiffusionModel, prompts: Sequence[Prompt], config: CollectionConfig
) -> tuple[list[DecodeRequest], int]:
    """Templated, tokenized prompts with content ids, and how many were too long.

    The id of a trajectory is a hash of the prompt's key, its token ids and the sample number, so
    that equal work has an equal id in every process.
    """
    requests, num_too_long = [], 0
    for prompt in prompts:
        ids = model.encode_prompt(prompt.prompt)
        if config.max_prompt_tokens is not None and len(ids) > config.max_prompt_tokens:
            num_too_long += 1
            continue
        known = {"prompt_id": prompt.id, "ground_truth": prompt.ground_truth}
        if prompt.question not in ("", prompt.text):  # as it was asked, without the template
            known = {"question": prompt.question} | known
        # Rows travel inside the store as JSON; values that are not JSON become text.
        row = json.loads(json.dumps({**prompt.row, **known}, default=str))
        # As 64-bit integers, so that the id is the same on every machine.
        content = np.asarray(ids, dtype=np.int64).tobytes()
        requests += [
            DecodeRequest(
                id=keys.content_id(prompt.id, content, str(sample)),
                prompt_ids=ids,
                prompt=prompt.text,
                task=prompt.task,
                reference=prompt.reference,
                row=row,
            )
            for sample in range(config.num_samples)
        ]
    return requests, num_too_long


def collect(
    decoder: Engine,
    prompts: Sequence[Prompt],
    chunks: Chunks,
    *,
    config: CollectionConfig,
    settings: dict[str, Any],
    progress: Callable[[int, int, str], object] = lambda done, total, note: None,
) -> dict[str, Any]:
    """Collect chunks until none is left to take; whoever sees the end finishes the store.

    What is done (by any earlier attempt, by whomever) is not decoded again.
    prompts: of which those of a chunk are asked for when it is decoded.
    settings: for the manifest, with the decoder's fingerprint.
    progress: called with (done, total) responses of all workers and a note on this one's speed.
    Returns: counts of this process (resumed: found done, decoded, forwards, truncated: stopped at
        the text with slots undecoded, missing: left in the hands of others) and of the store
        (prompts, too_long, failed), seconds, and the speed of this process, which the manifest has
        of the one that finished the store.
    Raises: DataError if every prompt is too long; SystemExit 143 after a SIGTERM, when the batch
        that was in work is kept.
    """
    started = time.perf_counter()
    chunks.begin(
        decoder.fingerprint, lambda: _plan(prompts, chunks, config), num_prompts=len(prompts)
    )
    if config.torch_compile:
        from tabom.models.compiled import compile_layers

        compile_layers(decoder.model)
    index = Index(chunks.folder / INDEX)
    tally = Counter(resumed=chunks.num_done * config.num_samples)
    total, meter = len(prompts) * config.num_samples, SpeedMeter(decoder)
    progress(tally["resumed"], total, "")
    with Preemption(signal.SIGTERM) as stop:
        for attempt in chunks.attempts(stop):
            with attempt:
                requests, num_too_long = _requests(index, attempt.chunk, prompts, decoder, config)
                # The parts of a split chunk share the spool that it has filled so far.
                whole, _, part = attempt.chunk.name.partition(".")
                folder = chunks.spool / whole
                writer = TrajectoryWriter(folder)
                on_disk = writer.done().intersection(r.id for r in requests)
                mine = [r for r in requests if r.id not in on_disk]
                tally["resumed"] += len(on_disk)
                before = chunks.num_done * config.num_samples + len(on_disk)
                finished: list[Trajectory] = []
                for done, item in enumerate(decoder.decode(mine), start=1):
                    finished.append(item.trajectory)
                    tally["decoded"] += 1
                    tally["forwards"] += item.trajectory.num_forwards
                    tally["truncated"] += bool(item.trajectory.row.get(TRUNCATED))
                    if not item.num_following:  # a batch that ends together is one file
                        writer.append(finished)
                        finished = []
                        attempt.rows = (len(on_disk) + done) // config.num_samples
                        if stop.is_asked:
                            stop.stop()
                    progress(before + done, total, meter.note())
                spool = Spool(folder)
                names = [r.id for r in requests]
                if not spool.place_of.keys() >= set(names):
                    chunks.scan()  # tells if the folder was removed
                    raise DataError(f"{folder}: batches of {whole} vanished; run it again")
                data, counts = to_object(spool.gather(names) if names else to_arrow([]))
                chunks.put(attempt, data, **counts, **spool.counts, num_too_long=num_too_long)
                if not part:
                    remove(folder)
    chunks.scan()
    found: dict[str, Any] = {
        "prompts": len(prompts),
        **{name: tally[name] for name in ("resumed", "decoded", "forwards", "truncated")},
        "seconds": round(time.perf_counter() - started, 3),
        **meter.report(),
    }
    if left := sum(chunk.size for chunk in chunks.left()):
        return found | {"missing": left * config.num_samples}
    manifest = finish_chunks(
        chunks,
        Mark(stage=STAGE, fingerprint=decoder.fingerprint, settings=settings),
        num_samples=config.num_samples,
        counts=meter.report(),
        seconds=found["seconds"],
    )
    if manifest is None:  # another worker is about to finish it
        return found | {"missing": 0}
    return found | {name: manifest.counts[f"num_{name}"] for name in ("too_long", "failed")}


def _plan(
    prompts: Sequence[Prompt], chunks: Chunks, config: CollectionConfig
) -> dict[str, list[tuple[int, int]]]:
    """Write the index and cut it, into whole batches, so that no chunk ends with a small one."""
    write_index(chunks.folder / INDEX, prompts)
    return {"": cut(len(prompts), chunks.size, batch=config.batch_size)}


def _requests(
    index: Index,
    chunk: Chunk,
    prompts: Sequence[Prompt],
    decoder: Engine,
    config: CollectionConfig,
) -> tuple[list[DecodeRequest], int]:
    """The requests of a chunk, and how many of its prompts are too long.

    In the order of the index, so that a store's rows lie alike whether or not a chunk was split.
    """
    picked = [prompts[row] for row in index.rows(chunk)]
    if [prompt.id for prompt in picked] != index.rows(chunk, "id"):
        raise DataError(
            f"{chunk.name}: the prompts are not those that this collection began with; collect "
            "them into another --output_dir"
        )
    return make_requests(decoder.model, picked, config)


def finish_chunks(
    chunks: Chunks, mark: Mark, *, num_samples: int, counts: Mapping[str, Any], seconds: float
) -> Manifest | None:
    """Declare a collection complete, of which every chunk is done or given up.

    Reads a small object for each chunk, no trajectories. Of several who do this one works.
    Returns: None if another one is at it.
    """
    folder = chunks.folder

    def counted(chunk: Chunk, data: bytes, path: Path) -> dict[str, int]:
        rows = read_object(data, path, fingerprint=mark.fingerprint)
        num_too_long = chunk.size - rows.num_rows // num_samples
        return {**to_object(rows)[1], "num_too_long": num_too_long}

    chunks.is_over = lambda: check_manifest(folder, mark) is not None
    end = chunks.end()
    if end is None:
        return check_manifest(folder, mark)
    with end:
        described, failed = chunks.describe(counted), chunks.failed()
        extra = [PLAN, INDEX]
        if failed:
            index = Index(folder / INDEX)
            rows = [
                {"why": why, **{n: index.rows(c, n)[0] for n in ("id", "row", "characters")}}
                for c, why in failed
            ]
            with replacing(folder / FAILED) as temporary:
                pq.write_table(pa.Table.from_pylist(rows), temporary)
            extra.append(FAILED)
        if not any(found["num_trajectories"] for _, found in described.values()):
            raise DataError(
                f"{folder}: nothing was collected: {len(failed)} prompts failed, and all "
                f"{chunks.num_items - len(failed)} prompts are longer than "
                "collection.max_prompt_tokens allows"
            )
        manifest = complete(
            folder,
            mark,
            described,
            counts={"num_failed": len(failed), **counts},
            seconds=seconds,
            others=extra,
        )
    chunks.clear(described)
    remove(chunks.spool)
    return manifest
