"""Decode the prompts that are not on disk yet; finish the store when nothing is missing."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tabom.collect.config import CollectionConfig
from tabom.collect.prompts import Prompt
from tabom.collect.speed import SpeedMeter
from tabom.core import keys
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.record import TRUNCATED, Trajectory
from tabom.trajectory.store import TrajectoryWriter, finish


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
        # Rows travel inside the store as JSON; values that are not JSON become text.
        row = json.loads(json.dumps(dict(prompt.row), default=str))
        if prompt.question not in ("", prompt.text):
            row.setdefault("question", prompt.question)  # as it was asked, without the template
        for sample in range(config.num_samples):
            requests.append(
                DecodeRequest(
                    id=keys.content_id(
                        prompt.id, np.asarray(ids, dtype=np.int64).tobytes(), str(sample)
                    ),
                    prompt_ids=ids,
                    prompt=prompt.text,
                    task=prompt.task,
                    reference=prompt.reference,
                    row={
                        **row,
                        "prompt_id": prompt.id,
                        "ground_truth": prompt.ground_truth,
                    },
                )
            )
    if not requests:
        raise DataError(
            f"all {len(prompts)} prompts are longer than collection.max_prompt_tokens = "
            f"{config.max_prompt_tokens}"
        )
    return requests, num_too_long


def collect(
    model: MaskedDiffusionModel,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    decoding: DecodingConfig,
    config: CollectionConfig,
    seed: int,
    fingerprint: str,
    settings: dict[str, Any],
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Collect this rank's share of the trajectories, durably; the last rank finishes the store.

    Resumable: what is on disk (of any earlier attempt, with any world size) is not decoded again.
    rank, world_size: static sharding of what is left; ranks need no connection to each other.
    progress: called with (done, total) of this rank and a note on its speed.
    Returns: counts (prompts, too_long, resumed, decoded, forwards, truncated: stopped at the text
        with slots undecoded, missing: what other ranks have yet to collect), seconds, and the
        speed of this process, which the manifest has of the one that finished the store.
    Raises: StageError if part of this rank's share is not on disk at the end.
    """
    if config.num_samples > 1 and not decoding.draws_tokens:
        raise ConfigError(
            "collection.num_samples > 1 at decoding.temperature 0, or with greedy_tokens, would "
            "repeat one trajectory; set decoding.temperature above 0 alone"
        )
    # Settings that do not go with the model are found here, before anything is written.
    decoder = Decoder(
        model, decoding, seed=seed, batch_size=config.batch_size, fingerprint=fingerprint
    )
    started = time.perf_counter()
    requests, num_too_long = make_requests(model, prompts, config)
    # By length, so that the ranks' shares are of alike work.
    requests.sort(key=lambda r: (len(r.prompt_ids), r.id))
    writer = TrajectoryWriter(folder)
    on_disk = writer.done()
    # The share is cut from all requests, not from what is left: ranks scan at different moments.
    mine = [r for r in requests[rank::world_size] if r.id not in on_disk]
    if config.torch_compile:
        from tabom.models.compiled import compile_layers

        compile_layers(model)
    num_forwards = num_truncated = 0
    if progress is not None:
        progress(0, len(mine), "")
    meter = SpeedMeter(model, decoder.counts)
    finished: list[Trajectory] = []
    for done, item in enumerate(decoder.decode(mine), start=1):
        finished.append(item.trajectory)
        num_forwards += item.trajectory.num_forwards
        num_truncated += bool(item.trajectory.row.get(TRUNCATED))
        if not item.num_following:  # a batch that ends together is one file
            writer.append(finished)
            finished = []
        if progress is not None:
            progress(done, len(mine), meter.note())
    counts: dict[str, Any] = {
        "prompts": len(prompts),
        "too_long": num_too_long,
        "resumed": len(requests[rank::world_size]) - len(mine),
        "decoded": len(mine),
        "forwards": num_forwards,
        "truncated": num_truncated,
        "seconds": round(time.perf_counter() - started, 3),
        **meter.report(),
    }
    if read_manifest(folder) is not None:  # another worker saw the end first
        return counts
    on_disk = writer.done()
    num_missing = sum(r.id not in on_disk for r in requests)
    if any(r.id not in on_disk for r in requests[rank::world_size]):
        raise StageError(
            f"{folder}: not finished, {num_missing} of {len(requests)} trajectories are missing; "
            "was the folder removed or emptied during the run? run it again"
        )
    if num_missing:
        counts["missing"] = num_missing  # of other workers' shares
    else:
        finish(
            folder,
            fingerprint=fingerprint,
            settings=settings,
            seconds=counts["seconds"],
            ids=[r.id for r in requests],
            counts=meter.report(),
        )
    return counts
