"""The index of many prompts is made of columns, and says what composing each prompt would say."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.collect import prompts as module
from tabom.collect.prompts import PromptRows, PromptSource
from tabom.core.errors import DataError

TEXTS = ["2 + 2?", "ä" * 5, "  spaces ", "𝕏 beyond", "last"]
PLAIN: dict[str, Any] = {"question": TEXTS, "answer": ["4"] * 5}


def both_ways(source: PromptSource) -> bool:
    """Assert that both say the same. Returns: whether the columns sufficed."""
    rows = PromptRows(source, seed=3)
    by_columns = rows._by_columns()
    ids, characters = rows.lengths()
    assert ids.to_pylist() == [p.id for p in rows]
    assert characters.tolist() == [p.num_characters for p in rows]
    return by_columns is not None


def source_of(folder: Path, columns: dict[str, Any], **options: Any) -> PromptSource:
    pq.write_table(pa.table(columns), folder / "p.parquet")
    return PromptSource(path=str(folder / "p.parquet"), **options)


@pytest.mark.parametrize(
    ("columns", "options", "suffice"),
    [
        (PLAIN, {}, True),
        (PLAIN, {"template": "{prompt} Answer {prompt}."}, True),
        (PLAIN, {"shuffle": True, "limit": 3, "offset": 1}, True),
        ({**PLAIN, "id": ["a", "b", "c", "d", "e"]}, {}, True),
        ({**PLAIN, "key": [5, 4, 3, 2, 1]}, {"id_column": "key", "offset": 2}, True),
        ({**PLAIN, "context": ["c"] * 5}, {"prompt_column": "question"}, True),
        # More columns belong to the prompt, or it depends on the row.
        ({**PLAIN, "context": ["c"] * 5}, {}, False),
        ({**PLAIN, "context": [""] * 5}, {}, False),
        ({**PLAIN, "system_prompt": ["be brief"] * 5}, {}, False),
        ({**PLAIN, "A": ["1"] * 5, "B": ["2"] * 5}, {}, False),
        ({**PLAIN, "prompt": ["x", "", "y", None, "z"]}, {}, False),
        ({"messages": [[{"role": "user", "content": t}] for t in TEXTS]}, {}, False),
        ({"question": TEXTS, "id": ["a", None, "c", "d", "e"]}, {}, False),
        ({"question": TEXTS, "id": [0.5, 1.5, 2.5, 3.5, 4.5]}, {}, False),
    ],
)
def test_the_index_is_that_of_the_prompts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, Any],
    options: dict[str, Any],
    suffice: bool,
) -> None:
    monkeypatch.setattr(module, "_SAMPLE", 1)
    assert both_ways(source_of(tmp_path, columns, **options)) == suffice


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"question": ["a", "b", "   ", "c", "d"]}, "row 2: .*empty"),
        ({"id": ["a", "b", "a", "c", "d"]}, "'a' occurs twice"),
        ({"question": ["a", "b", "c", "d", None]}, "row 4: no prompt"),
    ],
)
def test_a_bad_row_is_found_before_anything_is_decoded(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    rows = PromptRows(source_of(tmp_path, {**PLAIN, **change}), seed=0)
    with pytest.raises(DataError, match=why):
        rows.lengths()


def test_prompts_of_alike_length_stand_together(tmp_path: Path) -> None:
    from tabom.collect.index import INDEX, write_index

    rows = PromptRows(source_of(tmp_path, PLAIN), seed=0)
    write_index(tmp_path / INDEX, rows)
    table = pq.read_table(tmp_path / INDEX)
    assert table["characters"].to_pylist() == sorted(len(t) for t in TEXTS)
    assert [TEXTS[i] for i in table["row"].to_pylist()] == [
        TEXTS[i] for i in np.argsort([len(t) for t in TEXTS], kind="stable")
    ]
