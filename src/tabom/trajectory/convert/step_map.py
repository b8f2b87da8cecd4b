"""The files of dLLM-RL ("step_map"): text with special tokens, and the step of each token.

Two layouts. A rollout file has a row per prompt, with lists `full_output` and `step_map` of one
entry per sample; a training file has a row per sample, with `prompt`, `response` and `step_map`.
`prompt` is templated text. There are no token ids, so a response is tokenized again, as their
trainer does; where that gives another number of tokens than there are steps, the row is dropped.
A slot that was never revealed has step 0 there; its mask token tells it from the first step's.
"""

from typing import Any

from tabom.trajectory.convert import fields
from tabom.trajectory.convert.block import BLOCK, read_block, write_block
from tabom.trajectory.convert.fields import ConvertOptions, Item, UnfitRowError
from tabom.trajectory.convert.rows import MalformedRowError, Row
from tabom.trajectory.record import Trajectory

TEMPLATED = "templated_prompt"  # key of a trajectory's row: the prompt as the file had it
_IDS = "response_token_ids"
_NAMES = {"step": "step_map"}
_NAMES |= {name: f"{BLOCK}.{name}" for name in ("id", "entropy", "confidence")}
_PER_SAMPLE = ("correctness", "rewards", "extracted_output", "response_length")


def expand(row: Row) -> list[Row]:
    """One row per sample: those of a rollout file's row, or the row itself."""
    cells, place = row.cells(), row.place
    if cells.get("full_output") is None:
        return [Row(place, cells)]
    outputs, maps = cells["full_output"], cells.get("step_map")
    if not isinstance(outputs, list):
        raise MalformedRowError(place, "full_output", "expected a list of texts")
    if not isinstance(maps, list) or len(maps) != len(outputs):
        found = f"{len(maps)} entries" if isinstance(maps, list) else "no list"
        raise MalformedRowError(place, "step_map", f"{found} for {len(outputs)} of full_output")
    rest = {k: v for k, v in cells.items() if k not in ("full_output", "step_map", *_PER_SAMPLE)}
    rows = []
    for i, (output, step) in enumerate(zip(outputs, maps, strict=True)):
        own = {
            k: cells[k][i]
            for k in _PER_SAMPLE
            if isinstance(cells.get(k), list) and len(cells[k]) == len(outputs)
        }
        sample = {**rest, **own, "response": output, "step_map": step, "sample": i}
        rows.append(Row(f"{place}, sample {i}", sample))
    return rows


def read(row: Row, options: ConvertOptions) -> Item:
    """The trajectory of one sample.

    Raises: MalformedRowError naming file, row, sample and field; UnfitRowError if text and steps
        cannot be aligned.
    """
    cells, place = row.cells(), row.place
    vocabulary = options.vocabulary
    known = read_block(cells, place)
    templated, response = (fields.text(cells, name, place) for name in ("prompt", "response"))
    if not templated:
        raise MalformedRowError(place, "prompt", "the prompt is empty")
    recorded = (cells.get(BLOCK) or {}).get(_IDS)
    if recorded is not None:
        ids = fields.token_ids(recorded, f"{BLOCK}.{_IDS}", place, vocabulary=vocabulary)
    else:
        ids = vocabulary.tokenize(response, place=place)
    if not ids:
        raise MalformedRowError(place, "response", "it has no tokens")
    step_map = cells.get("step_map")
    if step_map is not None:
        fields.integers(step_map, "step_map", place)
        if len(step_map) != len(ids) and recorded is None:
            raise UnfitRowError(
                "the response's text has another number of tokens than step_map has steps"
            )
    step, is_ltr = fields.steps(
        step_map, "step_map", place, num_slots=len(ids), ids_name="tokens", options=options
    )
    if vocabulary.mask_id is not None:
        step = [
            -1 if s == 0 and i == vocabulary.mask_id else s for s, i in zip(step, ids, strict=True)
        ]
        fields.check_mask(ids, step, "step_map", place, vocabulary.mask_id)
    known.setdefault("prompt", fields.text(cells, "question", place, default=templated))
    if "response" not in known:
        known["response"] = vocabulary.decode_response(ids, place=place)
    if "prompt_ids" not in known:
        known["prompt_ids"] = vocabulary.tokenize(templated, place=place)
    reference = fields.reference_of(cells, options, place)
    if reference is not None:
        known["reference"] = reference
    elif "reference" not in known:
        known["reference"] = str(cells.get("ground_truth_answer") or "")
    if "row" not in known:
        used = {"prompt", "response", "step_map", BLOCK}
        known["row"] = {k: v for k, v in cells.items() if k not in used}
        known["row"][TEMPLATED] = templated
    known.setdefault("method", options.method)
    t = fields.build(place, names=_NAMES, options=options, response_ids_N=ids, step_N=step, **known)
    return Item(t, is_ltr)


def write(t: Trajectory, options: ConvertOptions) -> dict[str, Any]:
    """One row of a training file.

    Raises: UnfitRowError if a slot was never revealed, which a step_map cannot say to its readers.
    """
    if t.num_revealed < t.num_slots:
        raise UnfitRowError("some slots were never revealed, and a step_map cannot say so")
    place = f"trajectory {t.id!r}"
    block = write_block(t, options, "prompt", "response", "method", "task", "row")
    block[_IDS] = t.response_ids_N.tolist()  # a text does not give them back for certain
    templated = t.row.get(TEMPLATED)
    if templated is None:
        templated = options.vocabulary.decode(t.prompt_ids.tolist(), place=place)
    cells: dict[str, Any] = {
        "prompt": templated,
        "response": options.vocabulary.decode(t.response_ids_N.tolist(), place=place),
        "step_map": t.step_N.tolist(),
        "question": t.prompt,
        "ground_truth_answer": t.reference,
    }
    if "reward" in t.row:
        cells["reward"] = t.row["reward"]
    return {**cells, BLOCK: block}
