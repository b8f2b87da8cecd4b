"""The trajectory files of d3LLM ("d3llm"): the whole canvas, prompt included, after every step.

Per row: `prompt_ids`, `trajectory` (a list of canvases), `final_output`, `question`, `gt_answer`,
`is_correct`, `nfe`. The step of a slot is the index of the first canvas that shows its token.

Legend: N response slots, K canvases, S prompt + response.
"""

from typing import Any

import numpy as np

from tabom.trajectory.convert import fields
from tabom.trajectory.convert.block import BLOCK, read_block, write_block
from tabom.trajectory.convert.fields import ConvertOptions, Item, UnfitRowError
from tabom.trajectory.convert.rows import MalformedRowError, Row
from tabom.trajectory.record import Trajectory

_NAMES = {"step": "trajectory", "prompt_ids": "prompt_ids"}
_NAMES |= {name: f"{BLOCK}.{name}" for name in ("id", "entropy", "confidence")}
_USED = ("prompt_ids", "trajectory", "final_output", "nfe", BLOCK)


def read(row: Row, options: ConvertOptions) -> Item:
    """The trajectory of one row."""
    cells, place = row.cells(), row.place
    vocabulary = options.vocabulary
    known = read_block(cells, place)
    prompt_ids = fields.token_ids(
        cells.get("prompt_ids"), "prompt_ids", place, vocabulary=vocabulary
    )
    canvas_KN = _canvases(cells, prompt_ids, place, options)
    step_N = _steps(canvas_KN, vocabulary.need_mask(place), place)
    ids = [int(i) for i in canvas_KN[-1]]
    num_steps = len(canvas_KN)
    nfe = cells.get("nfe")
    if nfe is not None and fields.integers([nfe], "nfe", place)[0] < num_steps:
        raise MalformedRowError(place, "nfe", f"it is {nfe} for {num_steps} canvases")
    known["prompt_ids"] = prompt_ids
    known["num_forwards"] = num_steps if nfe is None else nfe
    known.setdefault("prompt", fields.text(cells, "question", place, default=""))
    if "response" not in known:  # `generated_text` holds the prompt's text, too
        known["response"] = vocabulary.decode_response(ids, place=place)
    reference = fields.reference_of(cells, options, place)
    if reference is not None:
        known["reference"] = reference
    elif "reference" not in known:
        known["reference"] = str(cells.get("gt_answer") or "")
    if "row" not in known:
        known["row"] = {k: v for k, v in cells.items() if k not in _USED}
    known.setdefault("method", options.method)
    t = fields.build(
        place, names=_NAMES, options=options, response_ids_N=ids, step_N=step_N.tolist(), **known
    )
    return Item(t)


def _canvases(
    cells: dict[str, Any], prompt_ids: list[int], place: str, options: ConvertOptions
) -> np.ndarray:
    """The response part of every canvas, int64 `[K, N]`; prompt and final output are checked."""
    canvases = cells.get("trajectory")
    if not isinstance(canvases, list) or not canvases:
        raise MalformedRowError(place, "trajectory", "expected a list of canvases, one per step")
    rows = []
    for k, canvas in enumerate(canvases):
        name = f"trajectory[{k}]"
        rows.append(fields.token_ids(canvas, name, place, vocabulary=options.vocabulary))
        if len(rows[k]) != len(rows[0]):
            raise MalformedRowError(
                place, name, f"it has {len(rows[k])} tokens, the first canvas has {len(rows[0])}"
            )
        if rows[k][: len(prompt_ids)] != prompt_ids:
            raise MalformedRowError(place, name, "it does not start with prompt_ids")
    if len(rows[0]) == len(prompt_ids):
        raise MalformedRowError(
            place, "trajectory", "the canvases hold the prompt and nothing else"
        )
    if cells.get("final_output") is not None and cells["final_output"] != rows[-1]:
        raise MalformedRowError(
            place, "final_output", "it is not the last canvas of the trajectory"
        )
    return np.asarray(rows, dtype=np.int64)[:, len(prompt_ids) :]


def _steps(canvas_KN: np.ndarray, mask: int, place: str) -> np.ndarray:
    """The step of each slot.

    Raises: MalformedRowError if a revealed slot was changed, or hidden again.
    """
    is_revealed_KN = canvas_KN != mask
    changed_KN = is_revealed_KN[:-1] & (canvas_KN[1:] != canvas_KN[:-1])
    if changed_KN.any():
        k, slot = (int(i) for i in np.argwhere(changed_KN)[0])
        raise MalformedRowError(
            place,
            f"trajectory[{k + 1}]",
            f"slot {slot} was revealed as {canvas_KN[k, slot]} and is {canvas_KN[k + 1, slot]} "
            "here; a revealed slot must stay",
        )
    step_N = np.where(is_revealed_KN[-1], is_revealed_KN.argmax(0), -1)
    return step_N.astype(np.int64)


def write(t: Trajectory, options: ConvertOptions) -> dict[str, Any]:
    """One row: a canvas for each model call, also for those that revealed nothing.

    Raises: UnfitRowError if there was no call, or a slot that was never revealed holds a token:
        canvases cannot say so.
    """
    mask = options.vocabulary.need_mask(f"trajectory {t.id!r}")
    if (t.response_ids_N[t.step_N < 0] != mask).any():
        raise UnfitRowError(
            "a slot that was never revealed holds a token, and a canvas cannot say so"
        )
    if t.num_forwards == 0:
        raise UnfitRowError("no model call was made, so there is no canvas")
    prompt = t.prompt_ids.tolist()
    step_N = np.where(t.step_N < 0, t.num_forwards, t.step_N)
    canvases = [
        prompt + np.where(step_N <= k, t.response_ids_N, mask).tolist()
        for k in range(t.num_forwards)
    ]
    return {
        "question": t.prompt,
        "prompt_ids": prompt,
        "trajectory": canvases,
        "final_output": canvases[-1],
        "generated_text": t.response,
        "gt_answer": t.reference,
        # Their loader keeps rows with true alone, so nothing is called right that nobody judged.
        "is_correct": t.row.get("is_correct", None if options.accepted is None else True),
        "nfe": int(t.num_forwards),
        BLOCK: write_block(t, options, "prompt", "response", "method", "task", "row"),
    }
