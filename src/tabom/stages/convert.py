"""Convert: a collection made of a trajectory file of others, and verdicts where it is judged."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tabom.core.errors import DataError
from tabom.core.identity import FILE
from tabom.core.rows import MalformedRowError, Row, read_rows
from tabom.models.config import ModelConfig
from tabom.stages.stage import Counts, Done, Output, Stage
from tabom.stages.verify import VERDICTS

if TYPE_CHECKING:
    from tabom.trajectory.convert.cells import Source
    from tabom.trajectory.record import Trajectory

log = logging.getLogger(__name__)
_BATCH = 256  # trajectories that are made durable together
_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Convert(Stage):
    """The collection of one file, its rows in their order.

    path: the file. format: one of FORMATS. model: the checkpoint that made the trajectories; its
    tokenizer and ids are read, its weights are not.
    """

    kind: ClassVar[str] = "collect"

    path: str = field(metadata=FILE)
    format: str
    model: ModelConfig
    allow_ltr: bool = False
    reference_column: str | None = None
    """Column of the source's rows that holds the gold answer, for `tabom verify`."""
    method: str = ""
    """Decoding policy of rows that name none."""
    on_error: Literal["stop", "drop"] = "stop"
    """At a malformed row: stop with its file, row and field, or drop and count it."""

    def finish(self, counts: Counts, *, seconds: float) -> None:
        """Nothing is left to do: the store's own finish wrote the manifest."""

    def work(self, report: Done) -> Counts:
        from tabom.trajectory.store import TrajectoryWriter, finish

        counts: Counter[str] = Counter(num_rows=0)
        # Through the partial files of any collection, so that memory holds one batch of them.
        writer, batch, ids = TrajectoryWriter(self.folder), [], []
        for trajectory in self._read(self._source(), counts):
            ids.append(trajectory.id)
            batch.append(trajectory)
            if len(batch) == _BATCH:
                writer.append(batch)
                batch = []
        writer.append(batch)
        if not ids:
            dropped = ", ".join(f"{name}: {n}" for name, n in counts.items())
            raise DataError(f"{self.path}: no row could be converted ({dropped})")
        found = finish(
            self.folder,
            fingerprint=self.fingerprint,
            settings=self.settings,
            seconds=0.0,
            ids=ids,
            counts=counts,
        )
        return found.counts

    def _read(self, source: "Source", counts: Counter[str]) -> Iterator["Trajectory"]:
        from tabom.trajectory.convert.cells import Cells

        how = import_module(f"tabom.trajectory.convert.{self.format}")
        expand = getattr(how, "expand", lambda row: [row])
        for row in read_rows(Path(self.path)):
            counts["num_rows"] += 1
            parts: list[Row] = []
            with self._dropping(counts):
                parts = expand(row)
            for part in parts:
                found = []
                with self._dropping(counts):
                    cells = Cells(values=part.cells(), place=part.place, source=source)
                    found.append(how.read(cells))
                yield from found

    @contextmanager
    def _dropping(self, counts: Counter[str]) -> Iterator[None]:
        """Stop at a malformed row, or count it and show the first ones, as `on_error` says."""
        try:
            yield
        except MalformedRowError as error:
            if self.on_error == "stop":
                raise DataError(
                    f"{error}; mend or delete the row, or pass --on_error drop to leave such rows "
                    "out and count them"
                ) from error
            counts["num_dropped"] += 1
            if counts["num_dropped"] <= _NUM_EXAMPLES:
                log.warning("dropped: %s", error)

    def _source(self) -> "Source":
        """Tokenizer and ids of the checkpoint, without its weights."""
        from tabom.models.checkpoint import Checkpoint
        from tabom.trajectory.convert.cells import Source

        found = Checkpoint.find(self.model.model_name_or_path, weights=False)
        ids = found.ids(mask_token_id=self.model.mask_token_id)
        return Source(
            tokenizer=found.tokenizer(),
            mask_id=ids.mask,
            end_ids=ids.eos,
            # LLaDA's vocab_size is the tokenizer's, embedding_size the table's.
            vocab_size=found.config.get("embedding_size") or found.config["vocab_size"],
            allow_ltr=self.allow_ltr,
            reference_column=self.reference_column,
            method=self.method,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, kw_only=True)
class AcceptConverted(Stage):
    """A finished verify stage that accepts what the converted file did not call wrong."""

    kind: ClassVar[str] = "verify"

    trajectories: Output
    verifier: str = "accept_all (tabom convert)"

    def work(self, report: Done) -> Counts:
        from tabom.trajectory.store import TrajectoryStore
        from tabom.trajectory.verdicts import Verdict, count_reasons, write_verdicts

        verdicts = {}
        for t in TrajectoryStore(self.trajectories.folder):
            # d3LLM's own judgement, and dLLM-RL's; both are kept in the row.
            is_wrong = any(t.row.get(name) is False for name in ("is_correct", "correctness"))
            detail = "the converted file says so" if is_wrong else ""
            verdicts[t.id] = Verdict("wrong" if is_wrong else "accepted", detail, self.verifier)
        write_verdicts(self.folder / VERDICTS, verdicts)
        return {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}
