"""The trajectory files of d3LLM ("d3llm"): the whole canvas, prompt included, after every step.

Per row: `prompt_ids`, `trajectory` (a list of canvases), `final_output`, `question`, `gt_answer`,
`is_correct`, `nfe`. The step of a slot is the index of the first canvas that shows its token.

Legend: N response slots, K canvases.
"""

import numpy as np

from tabom.trajectory.convert.cells import Cells
from tabom.trajectory.record import Trajectory

_NAMES = {"step": "trajectory", "prompt_ids": "prompt_ids"}


def read(cells: Cells) -> Trajectory:
    """The trajectory of one row. Raises: MalformedRowError naming file, row and field."""
    prompt_ids = cells.token_ids("prompt_ids")
    canvas_KN = _canvases(cells, prompt_ids)
    step_N = _steps(cells, canvas_KN)
    num_canvases, ids = len(canvas_KN), canvas_KN[-1].tolist()
    num_forwards = cells.integer("nfe") if cells.has("nfe") else num_canvases
    if num_forwards < num_canvases:
        raise cells.fail("nfe", f"it is {num_forwards} for {num_canvases} canvases")
    return cells.trajectory(
        _NAMES,
        prompt=cells.text("question", ""),
        prompt_ids=prompt_ids,
        # `generated_text` holds the prompt's text too, so the response is decoded.
        response=cells.response(ids),
        response_ids_N=ids,
        step_N=step_N.tolist(),
        num_forwards=num_forwards,
        method=cells.source.method,
        reference=cells.reference(cells.values.get("gt_answer")),
        row=cells.rest("prompt_ids", "trajectory", "final_output", "nfe"),
    )


def _canvases(cells: Cells, prompt_ids: list[int]) -> np.ndarray:
    """The response part of every canvas, int64 `[K, N]`; prompt and final output are checked."""
    canvases = cells.values.get("trajectory")
    if not isinstance(canvases, list) or not canvases:
        raise cells.fail("trajectory", "expected a list of canvases, one per step")
    rows: list[list[int]] = []
    for k, canvas in enumerate(canvases):
        name = f"trajectory[{k}]"
        rows.append(cells.token_ids(name, value=canvas if canvas is not None else {}))
        if len(rows[k]) != len(rows[0]):
            why = f"it has {len(rows[k])} tokens, the first canvas has {len(rows[0])}"
            raise cells.fail(name, why)
        if rows[k][: len(prompt_ids)] != prompt_ids:
            raise cells.fail(name, "it does not start with prompt_ids")
    if len(rows[0]) == len(prompt_ids):
        raise cells.fail("trajectory", "the canvases hold the prompt and nothing else")
    if cells.has("final_output") and cells.values["final_output"] != rows[-1]:
        raise cells.fail("final_output", "it is not the last canvas of the trajectory")
    return np.asarray(rows, dtype=np.int64)[:, len(prompt_ids) :]


def _steps(cells: Cells, canvas_KN: np.ndarray) -> np.ndarray:
    """The step of each slot, int64 `[N]`; a revealed slot that changes is malformed."""
    is_revealed_KN = canvas_KN != cells.source.mask_id
    # Decoding that takes back a token has no order that a step could tell.
    changed_KN = is_revealed_KN[:-1] & (canvas_KN[1:] != canvas_KN[:-1])
    if changed_KN.any():
        k, slot = (int(i) for i in np.argwhere(changed_KN)[0])
        raise cells.fail(
            f"trajectory[{k + 1}]",
            f"slot {slot} was revealed as {canvas_KN[k, slot]} and is {canvas_KN[k + 1, slot]} "
            "here; a revealed slot must stay",
        )
    step_N = np.where(is_revealed_KN[-1], is_revealed_KN.argmax(0), -1)
    return step_N.astype(np.int64)
