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
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import read_manifest
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
    if not requests:
        raise DataError(
            f"all {len(prompts)} prompts are longer than collection.max_prompt_tokens = "
            f"{config.max_prompt_tokens}"
        )
    return requests, num_too_long


def collect(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    config: CollectionConfig,
    settings: dict[str, Any],
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int, str], object] = lambda done, total, note: None,
) -> dict[str, Any]:
    """Collect a share of the trajectories, durably; whoever sees the end finishes the store.

    Resumable: what is on disk (of any earlier attempt, however shared out) is not decoded again.
    settings: for the manifest, with the decoder's fingerprint.
    share: (K, N), one of N parts from 0; those who collect them need no connection to each other.
    progress: called with (done, total) of this share and a note on its speed.
    Returns: counts (prompts, too_long, resumed, decoded, forwards, truncated: stopped at the text
        with slots undecoded, missing: what is left of other shares), seconds, and the speed of
        this process, which the manifest has of the one that finished the store.
    Raises: StageError if part of this share is not on disk at the end.
    """
    started = time.perf_counter()
    requests, num_too_long = make_requests(decoder.model, prompts, config)
    # By length, so that the shares are of alike work.
    requests.sort(key=lambda r: (len(r.prompt_ids), r.id))
    writer = TrajectoryWriter(folder)
    on_disk = writer.done()
    # It is cut from all requests, not from what is left: others scan at different moments.
    own = requests[share[0] :: share[1]]
    mine = [r for r in own if r.id not in on_disk]
    if config.torch_compile:
        from tabom.models.compiled import compile_layers

        compile_layers(decoder.model)
    num_forwards = num_truncated = 0
    progress(0, len(mine), "")
    meter = SpeedMeter(decoder)
    finished: list[Trajectory] = []
    for done, item in enumerate(decoder.decode(mine), start=1):
        finished.append(item.trajectory)
        num_forwards += item.trajectory.num_forwards
        num_truncated += bool(item.trajectory.row.get(TRUNCATED))
        if not item.num_following:  # a batch that ends together is one file
            writer.append(finished)
            finished = []
        progress(done, len(mine), meter.note())
    counts: dict[str, Any] = {
        "prompts": len(prompts),
        "too_long": num_too_long,
        "resumed": len(own) - len(mine),
        "decoded": len(mine),
        "forwards": num_forwards,
        "truncated": num_truncated,
        "seconds": round(time.perf_counter() - started, 3),
        **meter.report(),
    }
    on_disk = writer.done()
    missing = {r.id for r in requests if r.id not in on_disk}
    if read_manifest(folder) is not None:
        missing = set()  # another worker saw the end first, and its store has all
    # What this process decoded was on disk once; if it is gone, somebody took it away.
    if any(r.id in missing for r in own):
        raise StageError(
            f"{folder}: not finished, {len(missing)} of {len(requests)} trajectories are missing; "
            "was the folder removed or emptied during the run? run it again"
        )
    if missing:
        counts["missing"] = len(missing)
    else:
        finish(
            folder,
            fingerprint=decoder.fingerprint,
            settings=settings,
            seconds=counts["seconds"],
            ids=[r.id for r in requests],
            counts=meter.report(),
        )
    return counts
