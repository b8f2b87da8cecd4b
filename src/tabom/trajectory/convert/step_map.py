"""The files of dLLM-RL ("step_map"): text with special tokens, and the step of each token.

Two layouts. A rollout file has a row per prompt, with lists `full_output` and `step_map` of one
entry per sample; a training file has a row per sample, with `prompt`, `response` and `step_map`.
`prompt` is templated text. There are no token ids, so a response is tokenized again, as their
trainer does; where that gives another number of tokens than there are steps, the row is dropped.
A slot that was never revealed has step 0 there; its mask token tells it from the first step's.
"""

from dataclasses import replace

from tabom.core.rows import MalformedRowError, Row
from tabom.trajectory.convert.cells import Cells
from tabom.trajectory.record import Trajectory

_PER_SAMPLE = ("correctness", "rewards", "extracted_output", "response_length")


def expand(row: Row) -> list[Row]:
    """One row per sample: those of a rollout file's row, or the row itself."""
    cells, place = row.cells(), row.place
    outputs, maps = cells.get("full_output"), cells.get("step_map")
    if outputs is None:
        return [Row(place, cells)]
    if not isinstance(outputs, list):
        raise MalformedRowError(place, "full_output", "expected a list of texts")
    if not isinstance(maps, list) or len(maps) != len(outputs):
        found = f"{len(maps)} entries" if isinstance(maps, list) else "no list"
        raise MalformedRowError(place, "step_map", f"{found} for {len(outputs)} of full_output")
    rest = {k: v for k, v in cells.items() if k not in ("full_output", "step_map", *_PER_SAMPLE)}
    # A list of one entry for each sample belongs to the samples; any other to the prompt.
    lists = {
        name: cells[name]
        for name in _PER_SAMPLE
        if isinstance(cells.get(name), list) and len(cells[name]) == len(outputs)
    }
    rows = []
    for i, (output, step) in enumerate(zip(outputs, maps, strict=True)):
        own = {name: values[i] for name, values in lists.items()}
        sample = {**rest, **own, "response": output, "step_map": step, "sample": i}
        rows.append(Row(f"{place}, sample {i}", sample))
    return rows


def read(cells: Cells) -> Trajectory:
    """The trajectory of one sample.

    Raises: MalformedRowError naming file, row, sample and field, also if text and steps cannot be
        aligned.
    """
    templated, response = cells.text("prompt"), cells.text("response")
    if not templated:
        raise cells.fail("prompt", "the prompt is empty")
    ids, mask = cells.tokens(response), cells.source.mask_id
    if not ids:
        raise cells.fail("response", "it has no tokens")
    if cells.has("step_map"):
        steps = cells.integers("step_map")
        if len(steps) != len(ids):
            raise cells.fail("response", "its text has another number of tokens than step_map")
        # Step 0 is also written for what was never revealed; the mask token tells the two apart.
        steps = [-1 if (s, i) == (0, mask) else s for s, i in zip(steps, ids, strict=True)]
        cells = replace(cells, values={**cells.values, "step_map": steps})
    return cells.trajectory(
        {"step": "step_map"},
        prompt=cells.text("question", templated),
        prompt_ids=cells.tokens(templated),
        response=cells.response(ids),
        response_ids_N=ids,
        step_N=cells.steps("step_map", ids),
        method=cells.source.method,
        reference=cells.reference(cells.values.get("ground_truth_answer")),
        row=cells.rest("prompt", "response", "step_map"),
    )
