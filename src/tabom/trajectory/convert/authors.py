"""The trajectory JSON Lines of TABOM's authors ("tabom_jsonl"), and our superset of it.

Their `decoding_order` is our step: slot -> model call, -1 never. The rules here are those of their
training script's reader: which prompt key it takes, and which response key with it.
"""

from typing import Any

from tabom.trajectory.convert import fields
from tabom.trajectory.convert.block import BLOCK, read_block, write_block
from tabom.trajectory.convert.fields import ConvertOptions, Item
from tabom.trajectory.convert.rows import MalformedRowError, Row
from tabom.trajectory.order import length_to_end, non_left_to_right_slots
from tabom.trajectory.record import Trajectory

# Prompt key -> response keys, in the order in which their reader tries them. An empty response
# falls through to the next key.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "prompt": ("response", "output"),
    "instruction": ("output", "response"),
    "messages": (),
    "question": ("gen_text", "answer", "output", "response"),
}
LAYOUT = "authors_layout"  # key of a trajectory's row: how to write this row as it was
_IDS, _ORDER = "response_token_ids", "decoding_order"
_NAMES = {"step": _ORDER, "response_ids": _IDS, "prompt_ids": f"{BLOCK}.prompt_token_ids"}
_NAMES |= {name: f"{BLOCK}.{name}" for name in ("id", "entropy", "confidence")}

# Decoding policies under the names by which their trainer filters rows.
_METHODS = {"confidence": "default", "margin": "topk_margin"}


def read(row: Row, options: ConvertOptions) -> Item:
    """The trajectory of one line.

    Raises: MalformedRowError naming file, line and field.
    """
    cells, place = row.cells(), row.place
    known = read_block(cells, place)
    key = next((k for k in LAYOUTS if cells.get(k) is not None), None)
    if key is None:
        raise MalformedRowError(place, "prompt", f"none of {', '.join(LAYOUTS)} is there")
    prompt, response, response_key = _texts(cells, key, place)
    if not prompt and "row" not in known:
        raise MalformedRowError(place, key, "the prompt is empty")
    if cells.get(_IDS) is None:
        raise MalformedRowError(
            place, _IDS, "it is missing: the order says when each token id was revealed"
        )
    ids = fields.token_ids(cells[_IDS], _IDS, place, vocabulary=options.vocabulary)
    step, is_ltr = fields.steps(
        cells.get(_ORDER), _ORDER, place, num_slots=len(ids), ids_name=_IDS, options=options
    )
    if options.vocabulary.mask_id is not None:
        fields.check_mask(ids, step, _IDS, place, options.vocabulary.mask_id)
    if cells.get("non_ltr_positions") is not None:
        slots = fields.integers(cells["non_ltr_positions"], "non_ltr_positions", place)
        if slots and max(slots) >= len(ids):
            raise MalformedRowError(
                place, "non_ltr_positions", f"slot {max(slots)} of {len(ids)} does not exist"
            )
    if "row" not in known:  # not ours from the start: keep what it had, to write it as it was
        used = {key, response_key, _IDS, _ORDER, BLOCK}
        known["row"] = {k: v for k, v in cells.items() if k not in used}
        known["row"][LAYOUT] = {"prompt": key, "response": response_key}
        if key == "messages":
            known["row"][LAYOUT]["messages"] = cells[key]
        known["task"] = fields.text(cells, "data_source", place, default="")
        known["method"] = fields.text(cells, "method", place, default=options.method)
    reference = fields.reference_of(cells, options, place)
    if reference is not None:
        known["reference"] = reference
    if "prompt_ids" not in known:
        known["prompt_ids"] = options.vocabulary.encode_prompt(prompt, place=place)
    if not response and options.vocabulary.tokenizer is not None and "id" not in known:
        response = options.vocabulary.decode_response(ids, place=place)
    values = {**known, "prompt": prompt, "response": response}
    t = fields.build(
        place, names=_NAMES, options=options, response_ids_N=ids, step_N=step, **values
    )
    return Item(t, is_ltr)


def _texts(cells: dict[str, Any], key: str, place: str) -> tuple[str, str, str | None]:
    """Prompt, response, and the key that the response was under."""
    if key == "messages":
        messages = cells[key]
        if not isinstance(messages, list) or any(
            not isinstance(m, dict) or not isinstance(m.get("content"), str) for m in messages
        ):
            raise MalformedRowError(place, key, "expected a list of {role, content} objects")
        first = {m.get("role"): m["content"] for m in reversed(messages)}
        if "user" not in first:
            raise MalformedRowError(place, key, "no message has the role 'user'")
        return first["user"], first.get("assistant", ""), None
    prompt = fields.text(cells, key, place)
    for name in LAYOUTS[key]:
        response = fields.text(cells, name, place, default="")
        if response:
            return prompt, response, name
    return prompt, "", None


def write(t: Trajectory, options: ConvertOptions) -> dict[str, Any]:
    """One line: a row that came from such a file as it was, any other as question and gen_text.

    "question", because with "prompt" their reader would not look at gen_text. The "tabom" block
    holds what their format has no place for.
    """
    layout = t.row.get(LAYOUT)
    if isinstance(layout, dict):
        cells = {k: v for k, v in t.row.items() if k != LAYOUT}
        cells[layout["prompt"]] = layout.get("messages", t.prompt)
        if layout["response"] is not None:
            cells[layout["response"]] = t.response
        if t.method and cells.get("method") is None:
            cells["method"] = t.method  # from --method
        block = write_block(t, options)
    else:
        cells = {
            "question": t.prompt,
            "gen_text": t.response,
            "method": _METHODS.get(t.method, t.method),
            "data_source": t.task,
        }
        block = write_block(t, options, "method", "task", "row")
        end_ids = options.vocabulary.end_ids
        if end_ids:
            length = length_to_end(t.response_ids_N, end_ids)
            has_end = int(t.response_ids_N[length - 1]) in end_ids
            slots = non_left_to_right_slots(t.step_N, length - has_end)
            cells["non_ltr_positions"] = slots.tolist()
            block["non_ltr"] = "ours"  # theirs has no published definition
    cells[_IDS] = t.response_ids_N.tolist()
    cells[_ORDER] = t.step_N.tolist()
    return {**cells, BLOCK: block}
