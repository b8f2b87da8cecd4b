"""The index of a collection: which prompts there are, ordered by their length in characters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.collect.prompts import Prompt, PromptRows
from tabom.core.atomic import create
from tabom.core.attempts import Chunk
from tabom.core.place import source

INDEX = "index.parquet"
_ROWS = 4096  # of a row group: what is read for one chunk
_SCHEMA = pa.schema([("id", pa.string()), ("row", pa.int64()), ("characters", pa.int64())])


def write_index(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write the index of all prompts, unless it is there. row: the prompt's place among them."""
    if isinstance(prompts, PromptRows):
        ids, characters = prompts.lengths()
    else:
        ids = pa.array([prompt.id for prompt in prompts], pa.string())
        characters = np.array([prompt.num_characters for prompt in prompts])
    create(path, index_bytes(ids, characters))


def index_bytes(ids: pa.Array, characters: np.ndarray) -> Any:
    """The bytes of the index. Prompts of alike length stand together, so a chunk pads little."""
    order = np.argsort(characters, kind="stable")
    table = pa.table([ids.take(pa.array(order)), order, characters[order]], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_ROWS, compression="zstd", use_dictionary=False)
    return sink.getvalue().to_pybytes()


class Index:
    """The index file, of which the footer is held and a chunk's rows are read."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(source(path))

    def rows(self, chunk: Chunk, column: str = "row") -> Any:
        """The places of a chunk's prompts among all, in order; or their ids or characters."""
        groups = list(range(chunk.start // _ROWS, (chunk.end - 1) // _ROWS + 1))
        found = self._file.read_row_groups(groups, columns=[column]).column(0)
        first = chunk.start - groups[0] * _ROWS
        return found.slice(first, chunk.size).to_pylist()
