"""The trajectory JSON Lines of TABOM's authors, and our superset of it.

Their `decoding_order` is our step: slot -> model call, -1 never. The rules here are those of their
training script's reader: which prompt key it takes, and which response key with it. What their
format has no place for travels in a "tabom" block, which their reader does not look at.
"""

from collections.abc import Collection
from typing import Any

from tabom.core.plain import to_plain
from tabom.trajectory.convert.cells import Cells
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
_IDS, _ORDER, _BLOCK = "response_token_ids", "decoding_order", "tabom"
_NAMES = {"step": _ORDER, "response_ids": _IDS, "prompt_ids": f"{_BLOCK}.prompt_token_ids"}
_NAMES |= {name: f"{_BLOCK}.{name}" for name in ("id", "entropy", "confidence")}

# Decoding policies under the names by which their trainer filters rows.
_METHODS = {"confidence": "default", "margin": "topk_margin"}


def read(cells: Cells) -> Trajectory:
    """The trajectory of one line. Raises: MalformedRowError naming file, line and field."""
    key = next((k for k in LAYOUTS if cells.has(k)), None)
    if key is None:
        raise cells.fail("prompt", f"none of {', '.join(LAYOUTS)} is there")
    known = _read_block(cells)
    prompt, response, response_key = _texts(cells, key)
    if not prompt and not known:
        raise cells.fail(key, "the prompt is empty")
    if not cells.has(_IDS):
        raise cells.fail(_IDS, "it is missing: the order says when each token id was revealed")
    ids = cells.token_ids(_IDS)
    step = cells.steps(_ORDER, ids)
    if "prompt_ids" not in known:
        known["prompt_ids"] = cells.tokens(prompt, is_prompt=True)
    return cells.trajectory(
        _NAMES,
        prompt=prompt,
        response=response or cells.response(ids),
        response_ids_N=ids,
        step_N=step,
        task=cells.text("data_source", ""),
        method=cells.text("method", cells.source.method),
        reference=cells.reference(known.pop("reference", None)),
        row=cells.rest(key, response_key, _IDS, _ORDER, _BLOCK, "method", "data_source"),
        **known,
    )


def _texts(cells: Cells, key: str) -> tuple[str, str, str | None]:
    """Prompt, response, and the key that the response was under."""
    if key != "messages":
        prompt = cells.text(key)
        for name in LAYOUTS[key]:
            if response := cells.text(name, ""):
                return prompt, response, name
        return prompt, "", None
    messages = cells.values[key]
    is_fine = isinstance(messages, list) and all(
        isinstance(m, dict) and all(isinstance(m.get(k), str) for k in ("role", "content"))
        for m in messages
    )
    # Reversed, so that the first message of a role is the one that stays.
    first = {m["role"]: m["content"] for m in reversed(messages)} if is_fine else {}
    if "user" not in first:
        raise cells.fail(key, "expected {role, content} objects, one of them of the role user")
    return first["user"], first.get("assistant", ""), None


def _read_block(cells: Cells) -> dict[str, Any]:
    """The row's "tabom" block as keyword arguments of a record; {} if it has none."""
    values = cells.values.get(_BLOCK)
    if values is None:
        return {}
    if not isinstance(values, dict) or values.get("schema") != 1:
        raise cells.fail(_BLOCK, "expected an object with schema 1")
    block = Cells(values=values, place=cells.place, source=cells.source, prefix=f"{_BLOCK}.")
    known: dict[str, Any] = {
        name: block.text(name) for name in ("id", "reference", "fingerprint") if name in values
    }
    if "prompt_token_ids" in values:
        known["prompt_ids"] = block.integers("prompt_token_ids")
    if "nfe" in values:
        known["num_forwards"] = block.integer("nfe")
    return known | {f"{name}_N": block.numbers(name) for name in ("entropy", "confidence")}


def write(t: Trajectory, *, end_ids: Collection[int]) -> dict[str, Any]:
    """One line as question and gen_text.

    "question", because with "prompt" their reader would not look at gen_text.
    end_ids: every id that ends a response; without them `non_ltr_positions` is left out.
    """
    cells: dict[str, Any] = {
        "question": t.prompt,
        "gen_text": t.response,
        "method": _METHODS.get(t.method, t.method),
        "data_source": t.task,
        _IDS: t.response_ids_N.tolist(),
        _ORDER: t.step_N.tolist(),
        _BLOCK: {
            "schema": 1,
            "id": t.id,
            "prompt_token_ids": t.prompt_ids.tolist(),
            "nfe": int(t.num_forwards),
            "entropy": to_plain(t.entropy_N),
            "confidence": to_plain(t.confidence_N),
            "reference": t.reference,
            "fingerprint": t.fingerprint,
        },
    }
    if end_ids:
        length = length_to_end(t.response_ids_N, end_ids)
        content = length - (int(t.response_ids_N[length - 1]) in end_ids)
        # Theirs has no published definition; these are ours, up to the end.
        cells["non_ltr_positions"] = non_left_to_right_slots(t.step_N, content).tolist()
    return cells
