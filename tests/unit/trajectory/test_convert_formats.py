"""Each format of others: what its reader sees, round trips, and every kind of malformed row.

Legend: N response slots.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tabom.core.rows import MalformedRowError, Row
from tabom.toyworld.tokenizer import build_tokenizer
from tabom.trajectory.convert import d3llm, step_map, tabom_jsonl
from tabom.trajectory.convert.cells import Cells, Source
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import to_arrow

Make = Callable[..., Trajectory]
Says = Callable[[Trajectory], Any]

TOKENIZER = build_tokenizer()
MASK, EOS = TOKENIZER.mask_token_id, TOKENIZER.eos_token_id
SOURCE = Source(tokenizer=TOKENIZER, mask_id=MASK, end_ids=(EOS,), vocab_size=len(TOKENIZER))


def ids_of(text: str) -> list[int]:
    return [int(i) for i in TOKENIZER(text, add_special_tokens=False)["input_ids"]]


RESPONSE = ids_of("21<eos><eos>")
AUTHORS: dict[str, Any] = {
    "question": "12",
    "gen_text": "21",
    "response_token_ids": RESPONSE,
    "decoding_order": [3, 1, 0, 3],
    "non_ltr_positions": [0],
    "method": "entropy",
    "data_source": "prm12",
}


def read_authors(values: dict[str, Any], source: Source = SOURCE) -> Trajectory:
    return tabom_jsonl.read(Cells(values=values, place="f.jsonl, line 3", source=source))


def as_json(cells: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(json.dumps(cells))
    return row


def their_reader(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the authors' training script takes from a row."""
    if "prompt" in row:
        prompt, response = row["prompt"], row.get("response") or row.get("output")
    elif "instruction" in row:
        prompt, response = row["instruction"], row.get("output") or row.get("response")
    elif "messages" in row:
        prompt = next(m["content"] for m in row["messages"] if m["role"] == "user")
        response = next((m["content"] for m in row["messages"] if m["role"] == "assistant"), None)
    else:
        prompt = row["question"]
        response = row.get("gen_text") or row.get("answer") or row.get("output")
        response = response or row.get("response")
    same = ("response_token_ids", "decoding_order", "non_ltr_positions", "method", "data_source")
    return (prompt, response or "", *(row.get(name) for name in same))


BARE = {k: v for k, v in AUTHORS.items() if k not in ("question", "gen_text")}
LAYOUT_ROWS: list[dict[str, Any]] = [
    AUTHORS,
    {"prompt": "12", "response": "21", **BARE},
    {"prompt": "12", "response": "", "output": "21", **BARE},
    {"instruction": "12", "output": "21", "response": "no", **BARE},
    {"instruction": "12", "response": "21", **BARE},
    {"question": "12", "gen_text": "", "answer": "21", "mine": {"deep": [1, None]}, **BARE},
    {"question": "12", "output": "21", "answer": None, **BARE},
    {"question": "12", "response": "21", **BARE, "method": "credit"},
    {"prompt": "12", "question": "no", "gen_text": "no", "output": "21", **BARE},
    {
        "messages": [
            {"role": "system", "content": "be good"},
            {"role": "user", "content": "12"},
            {"role": "assistant", "content": "21"},
            {"role": "user", "content": "again"},
        ],
        **BARE,
    },
    {
        "question": "12",
        "gen_text": "21",
        "response_token_ids": RESPONSE,
        "decoding_order": [1, -1, 0, 0],
    },
]


@pytest.mark.parametrize("row", LAYOUT_ROWS)
def test_a_row_is_taken_as_the_authors_reader_takes_it(row: dict[str, Any]) -> None:
    t = read_authors(row)
    assert (t.prompt, t.response) == ("12", "21")
    assert t.prompt_ids.tolist() == ids_of("<user>12<assistant>")
    assert t.step_N.tolist() == row["decoding_order"]
    assert t.num_forwards == max(row["decoding_order"]) + 1
    assert np.isnan(t.entropy_N).all()  # nothing is made up
    assert np.isnan(t.confidence_N).all()
    assert t.task == row.get("data_source", "")
    assert t.method == row.get("method", "")
    assert "response_token_ids" not in t.row
    # What we write of it, their reader takes for the same.
    back = as_json(tabom_jsonl.write(t, end_ids=[EOS]))
    assert their_reader(back)[:4] == their_reader(row)[:4]
    again = read_authors(back)
    assert (again.id, again.prompt_ids.tolist()) == (t.id, t.prompt_ids.tolist())


def test_an_order_of_others_without_entropies_is_step_then_slot() -> None:
    assert read_authors(AUTHORS).order_N.tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("i", range(12))
def test_ours_to_authors_to_ours_keeps_the_trajectory(make: Make, says: Says, i: int) -> None:
    changes: dict[str, Any] = {"method": ["entropy", "confidence", "margin", ""][i % 4]}
    if i % 3 == 2:
        changes |= {"prompt": "", "task": "", "reference": ""}
    t = make(i, **changes)
    cells = as_json(tabom_jsonl.write(t, end_ids=()))
    back = read_authors(cells, replace(SOURCE, vocab_size=100, mask_id=99, fingerprint="other"))
    assert says(replace(back, method=t.method, row={})) == says(replace(t, row={}))
    assert their_reader(cells)[:4] == (
        t.prompt,
        t.response,
        t.response_ids_N.tolist(),
        t.step_N.tolist(),
    )
    # The names under which their trainer keeps rows: LLaDA's least-confidence rule is "default".
    assert cells["method"] == ["entropy", "default", "topk_margin", ""][i % 4]


def test_our_non_ltr_positions_stop_before_the_end(make: Make) -> None:
    t = make(
        1, response_ids_N=[*ids_of("213"), EOS, EOS], step_N=[2, 3, 1, 0, 0], num_forwards=4,
        entropy_N=[0] * 5, confidence_N=[1] * 5,
    )  # fmt: skip
    cells = tabom_jsonl.write(t, end_ids=[EOS])
    assert cells["non_ltr_positions"] == [0, 1]  # slot 2 came early, the end does not count
    assert "non_ltr_positions" not in tabom_jsonl.write(t, end_ids=[])


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in AUTHORS.items() if k != name}


BLOCK = {"schema": 1, "id": "x", "prompt_token_ids": [5], "nfe": 4}


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        (without("question"), "prompt", "none of prompt, instruction"),
        ({"question": 7}, "question", "expected text, found 7"),
        ({"question": ""}, "question", "the prompt is empty"),
        ({"messages": "hi"}, "messages", "expected"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "role user"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages", "expected"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages", "expected"),
        ({"tabom": {**BLOCK, "nfe": [4]}}, "tabom.nfe", "expected an integer"),
        ({"tabom": {**BLOCK, "entropy": [1, {}, 1, 1]}}, "tabom.entropy", "list of numbers"),
        ({"tabom": {**BLOCK, "entropy": [10**400, 1, 1, 1]}}, "tabom.entropy", "too large"),
        ({"gen_text": ["21"]}, "gen_text", "expected text, found"),
        (without("response_token_ids"), "response_token_ids", "it is missing"),
        ({"response_token_ids": []}, "response_token_ids", "it is empty"),
        ({"response_token_ids": "12"}, "response_token_ids", "expected a list of integers"),
        ({"response_token_ids": [1, 2.0, 1, 1]}, "response_token_ids", "value 1 is 2.0"),
        ({"response_token_ids": [1, True, 1, 1]}, "response_token_ids", "value 1 is True"),
        ({"response_token_ids": [1, -3, 1, 1]}, "response_token_ids", "value 1 is -3"),
        ({"response_token_ids": [9999, 1, 1, 1]}, "response_token_ids", "9999 is outside"),
        ({"response_token_ids": [MASK, 1, 1, 1]}, "decoding_order", "slot 0 was revealed at"),
        (
            without("decoding_order"),
            "decoding_order",
            "0 values for 4 tokens: the order is what is",
        ),
        ({"decoding_order": [1, 0]}, "decoding_order", "it has 2 values for 4"),
        ({"decoding_order": [0] * 5}, "decoding_order", "it has 5 values for 4"),
        ({"decoding_order": [0, 1, -2, 1]}, "decoding_order", "value 2 is -2; .* >= -1"),
        ({"decoding_order": [0, 1, None, 1]}, "decoding_order", "value 2 is nothing"),
        ({"method": 1}, "method", "expected text"),
        ({"data_source": {}}, "data_source", "expected text"),
        ({"tabom": {"schema": 2}}, "tabom", "schema 1"),
        ({"tabom": []}, "tabom", "schema 1"),
        ({"tabom": {**BLOCK, "nfe": 3}}, "decoding_order", "step 3 is not below num_forwards 3"),
        ({"tabom": {**BLOCK, "prompt_token_ids": []}}, "tabom.prompt_token_ids", "is empty"),
        ({"tabom": {**BLOCK, "entropy": [1.0]}}, "tabom.entropy", "entropy has 1 values for 4"),
        ({"tabom": {**BLOCK, "entropy": [1, None, 1, 1]}}, "tabom.entropy", "not finite"),
        ({"tabom": {**BLOCK, "confidence": "1"}}, "tabom.confidence", "expected a list of numbers"),
        ({"tabom": {**BLOCK, "id": ""}}, "tabom.id", "id is empty"),
    ],
)
def test_malformed_rows_of_the_authors_name_line_field_and_why(
    changes: dict[str, Any], field: str, why: str
) -> None:
    cells = changes if "gen_text" in changes and len(changes) > 1 else {**AUTHORS, **changes}
    with pytest.raises(
        MalformedRowError, match=rf"^f\.jsonl, line 3, field '{field}': .*{why}"
    ) as e:
        read_authors(cells)
    assert e.value.field == field


def test_a_missing_or_short_order_is_left_to_right_only_if_asked_for() -> None:
    source = replace(SOURCE, allow_ltr=True)
    for cells in (without("decoding_order"), {**AUTHORS, "decoding_order": [1, 0]}):
        assert read_authors(cells, source).step_N.tolist() == [0, 1, 2, 3]
    assert read_authors(AUTHORS, source).step_N.tolist() == AUTHORS["decoding_order"]
    with pytest.raises(MalformedRowError, match="5 values for 4"):  # too long is another mistake
        read_authors({**AUTHORS, "decoding_order": [0] * 5}, source)


def test_a_method_is_given_to_rows_that_name_none() -> None:
    source = replace(SOURCE, method="credit")
    for cells, method in ((AUTHORS, "entropy"), (without("method"), "credit")):
        t = read_authors(cells, source)
        assert t.method == tabom_jsonl.write(t, end_ids=[])["method"] == method
    assert read_step_map(ROLLOUT, source)[0].method == "credit"
    assert read_d3llm(SNAPSHOTS, source).method == "credit"


def test_the_reference_column_is_what_a_verifier_will_compare_with() -> None:
    source = replace(SOURCE, reference_column="gold")
    assert read_authors({**AUTHORS, "gold": 21}, source).reference == "21"
    with pytest.raises(MalformedRowError, match="field 'gold': no such column"):
        read_authors(AUTHORS, source)


# -- dLLM-RL --------------------------------------------------------------------------------------

ROLLOUT = {
    "question": "12",
    "ground_truth_answer": "21",
    "prompt": "<user>12<assistant>",
    "full_output": ["21<eos><eos>", "2<mask><eos><mask>"],
    "step_map": [[1, 0, 0, 2], [0, 0, 3, 0]],
    "correctness": [True, False],
    "extracted_output": ["21", "2"],
}


def read_step_map(values: dict[str, Any], source: Source = SOURCE) -> list[Trajectory]:
    rows = step_map.expand(Row("f.json, row 0", values))
    return [
        step_map.read(Cells(values=row.cells(), place=row.place, source=source)) for row in rows
    ]


def test_a_rollout_row_is_one_trajectory_a_sample() -> None:
    first, second = read_step_map(ROLLOUT)
    assert first.id != second.id
    assert first.prompt == "12"
    assert first.prompt_ids.tolist() == ids_of("<user>12<assistant>")
    assert first.response_ids_N.tolist() == RESPONSE
    assert (first.response, first.reference) == ("21", "21")
    assert first.step_N.tolist() == [1, 0, 0, 2]
    assert first.num_forwards == 3
    assert first.row["correctness"] is True
    # Step 0 is both "the first step" and "never": the mask token tells them apart.
    assert second.step_N.tolist() == [0, -1, 3, -1]
    assert second.row["correctness"] is False
    assert np.isnan(first.entropy_N).all()


def test_a_text_that_does_not_tokenize_to_its_steps_is_left_out() -> None:
    with pytest.raises(MalformedRowError, match="another number of tokens"):
        read_step_map({"prompt": "1", "response": "21", "step_map": [0, 1, 2]})


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"prompt": None}, "prompt", "expected text, found nothing"),
        ({"prompt": ""}, "prompt", "the prompt is empty"),
        ({"response": 1}, "response", "expected text"),
        ({"response": ""}, "response", "it has no tokens"),
        ({"step_map": None}, "step_map", "0 values for 2"),
        ({"step_map": [0, "1"]}, "step_map", "value 1 is '1'"),
        ({"step_map": [0, -1]}, "step_map", "value 1 is -1"),
        ({"response": "1<mask>", "step_map": [0, 4]}, "step_map", "slot 1 was revealed at step 4"),
        ({"full_output": "21"}, "full_output", "expected a list"),
        ({"full_output": ["21"], "step_map": [[0, 1], []]}, "step_map", "2 entries for 1"),
        ({"full_output": ["21"], "step_map": None}, "step_map", "no list for 1"),
        ({"full_output": ["21"], "step_map": [7]}, "step_map", "expected a list"),
    ],
)
def test_malformed_rows_of_dllm_rl(changes: dict[str, Any], field: str, why: str) -> None:
    row = {"prompt": "<user>1<assistant>", "response": "21", "step_map": [1, 0], **changes}
    with pytest.raises(MalformedRowError, match=rf"f\.json, row 0.*, field '{field}': .*{why}"):
        read_step_map(row)


# -- d3LLM ----------------------------------------------------------------------------------------

P = ids_of("<user>12<assistant>")
TWO, ONE = ids_of("21")
SNAPSHOTS: dict[str, Any] = {
    "idx": 4,
    "question": "12",
    "prompt_ids": P,
    "trajectory": [
        [*P, MASK, MASK, EOS, MASK],
        [*P, MASK, MASK, EOS, MASK],  # a step that revealed nothing
        [*P, TWO, MASK, EOS, EOS],
        [*P, TWO, ONE, EOS, EOS],
    ],
    "final_output": [*P, TWO, ONE, EOS, EOS],
    "generated_text": "1221",
    "gt_answer": "21",
    "is_correct": True,
    "nfe": 4,
}


def read_d3llm(values: dict[str, Any], source: Source = SOURCE) -> Trajectory:
    return d3llm.read(Cells(values=values, place="f.json, row 2", source=source))


def test_snapshots_give_the_step_at_which_each_slot_appeared() -> None:
    t = read_d3llm(SNAPSHOTS)
    assert t.step_N.tolist() == [2, 3, 0, 2]
    assert t.prompt_ids.tolist() == P
    assert t.response_ids_N.tolist() == [TWO, ONE, EOS, EOS]
    assert (t.prompt, t.response, t.reference) == ("12", "21", "21")
    assert t.num_forwards == 4
    assert t.row == {
        "idx": 4, "question": "12", "generated_text": "1221", "gt_answer": "21", "is_correct": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"prompt_ids": None}, "prompt_ids", "expected a list of integers, found nothing"),
        ({"prompt_ids": []}, "prompt_ids", "it is empty"),
        ({"trajectory": None}, "trajectory", "expected a list of canvases"),
        ({"trajectory": [P, P]}, "trajectory", "the prompt and nothing else"),
        ({"trajectory": [[*P, 1], [*P, 1, 1]]}, r"trajectory\[1\]", "8|it has"),
        ({"trajectory": [[0, *P]]}, r"trajectory\[0\]", "does not start with prompt_ids"),
        ({"trajectory": [[*P, TWO], [*P, ONE]]}, r"trajectory\[1\]", "slot 0 was revealed as"),
        ({"trajectory": [[*P, TWO], [*P, MASK]]}, r"trajectory\[1\]", "a revealed slot must stay"),
        ({"final_output": [*P, TWO]}, "final_output", "not the last canvas"),
        ({"nfe": 2}, "nfe", "it is 2 for 4 canvases"),
        ({"nfe": "4"}, "nfe", "value 0 is '4'"),
        ({"nfe": [4]}, "nfe", "value 0 is"),
        ({"trajectory": [None]}, r"trajectory\[0\]", "expected a list"),
        ({"trajectory": [[*P, {}]]}, r"trajectory\[0\]", "expected an integer"),
        ({"trajectory": {"0": [1]}}, "trajectory", "expected a list of canvases"),
    ],
)
def test_malformed_rows_of_d3llm(changes: dict[str, Any], field: str, why: str) -> None:
    cells = {**SNAPSHOTS, **changes}
    if "trajectory" in changes:
        del cells["final_output"], cells["nfe"]
    with pytest.raises(MalformedRowError, match=rf"f\.json, row 2, field '{field}': .*({why})"):
        read_d3llm(cells)


# -- all of them ----------------------------------------------------------------------------------

WRONG: list[Any] = [
    None, True, 7, -1, 2**70, 1e300, "x", "", [], [[]], [None], ["x"], [{}], {}, {"a": {"b": [1]}},
]  # fmt: skip


def paths_of(value: Any) -> list[tuple[Any, ...]]:
    """Where values lie inside nested cells."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, inner in items:
        found.append((key,))
        if isinstance(inner, dict | list):
            found += [(key, *path) for path in paths_of(inner)]
    return found


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("tabom_jsonl", {**AUTHORS, "tabom": {**BLOCK, "entropy": [1.0] * 4, "confidence": None}}),
        ("tabom_jsonl", LAYOUT_ROWS[9]),
        ("step_map", ROLLOUT),
        ("d3llm", SNAPSHOTS),
    ],
)
@pytest.mark.parametrize("allow_ltr", [False, True])
def test_any_wrong_value_at_any_place_is_an_error_of_ours(
    name: str, cells: dict[str, Any], allow_ltr: bool
) -> None:
    source = replace(SOURCE, allow_ltr=allow_ltr)
    how, num_refused = {"tabom_jsonl": tabom_jsonl, "d3llm": d3llm}.get(name), 0
    for path in paths_of(cells):
        for wrong in WRONG:
            changed = as_json(cells)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            try:
                cells_of_it = Cells(values=changed, place="f", source=source)
                found = read_step_map(changed, source) if how is None else [how.read(cells_of_it)]
                to_arrow(found)  # it can be written, too
            except MalformedRowError:
                num_refused += 1
    assert num_refused > 50
