"""What a published evaluation set is: its documents, how they are asked, and who judges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.core.plain import canonical_json
from tabom.core.rows import read_rows
from tabom.decoding.requests import DecodeRequest
from tabom.evaluation.records import EvaluationRecord
from tabom.verify.checker import Checker

if TYPE_CHECKING:
    from tabom.models.contract import MaskedDiffusionModel

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question(DecodeRequest):
    """One response that an evaluation set asks for.

    document: what is asked, the same for every model. sample: of several responses to it.
    """

    document: str
    sample: int = 0


class Benchmark:
    """Documents, prompt, budget and judges of a published evaluation set.

    A subclass sets the attributes below and says what is asked; a module of `benchmarks` holds an
    instance of it as BENCHMARK. Everything it does is cheap until `judges` is called.
    """

    name: str
    """As it is called in recipes and settings; its local file is `<name>.jsonl`."""
    hub: ClassVar[str]
    """The data set on the hub, with its configuration and split."""
    config: ClassVar[str | None] = None
    split: ClassVar[str] = "test"
    num_documents: ClassVar[int | None] = None
    """How many there are, for planning."""
    columns: ClassVar[Mapping[str, type]]
    """Columns that every document must have, with their types."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Columns that are kept where they are there."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """Names of a column in another edition."""
    max_new_tokens: ClassVar[int]
    """The budget where neither a setting nor the user names another."""
    until: tuple[str, ...] = ()
    """Texts that end a response; they are not part of it."""

    @cached_property
    def decoding(self) -> dict[str, Any]:
        """The decoding options that it has of its own."""
        return {"max_new_tokens": self.max_new_tokens}

    def prompt(self, row: Row) -> str:
        """What the user's message asks."""
        raise NotImplementedError

    def opening(self, row: Row) -> str:
        """How the answer begins already; the model goes on from there."""
        return ""

    def question(self, row: Row) -> str:
        """The document's own text, without the instructions around it: for the held-out check."""
        return str(row[next(iter(self.columns))])

    def reference(self, row: Row) -> str:
        """The right answer as text, "" where tests decide."""
        return ""

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        """Who judges, by the published name of the number; the first decides what is correct.

        Called before anything is decoded. unsafe_exec: programs may run without a sandbox.
        Raises: ConfigError or DataError if the documents cannot be judged on this machine.
        """
        raise NotImplementedError

    def numbers(self, row: Row, text: str) -> dict[str, float]:
        """Further numbers of one response, kept with its record."""
        return {}

    def totals(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        """Further published numbers of all responses, made of what the records hold."""
        return {}

    def prompt_ids(
        self, row: Row, model: "MaskedDiffusionModel", *, chat_template: bool
    ) -> list[int]:
        """What a model is shown of a document. chat_template: put it into the model's."""
        prompt, opening = self.prompt(row), self.opening(row)
        if chat_template:
            messages = [{"role": "user", "content": prompt}]
            messages += [{"role": "assistant", "content": opening}] if opening else []
            return model.encode_prompt(messages, is_open=bool(opening))
        # Without a template nothing else would keep the question and its answer apart.
        is_apart = not opening or prompt[-1].isspace() or opening[0].isspace()
        return model.encode_text(prompt + ("" if is_apart else " ") + opening)

    def questions(
        self,
        rows: Sequence[Row],
        model: "MaskedDiffusionModel",
        *,
        num_samples: int = 1,
        chat_template: bool = True,
        max_prompt_tokens: int | None = None,
    ) -> Iterator[Question]:
        """What a model is asked: every sample of every document, in their order.

        max_prompt_tokens: keep this many tokens at the end of a longer prompt; None: all.
        """
        for number, row in enumerate(rows):
            ids = self.prompt_ids(row, model, chat_template=chat_template)
            # The end of a prompt holds the question; what is cut is its beginning.
            ids = ids[-(max_prompt_tokens or len(ids)) :]
            for sample in range(num_samples):
                yield Question(
                    id=response_id(self.name, ids, sample),
                    prompt_ids=ids,
                    prompt=self.prompt(row),
                    task=self.name,
                    reference=self.reference(row),
                    row=dict(row),
                    document=f"{number:05d}-{keys.content_id(canonical_json(row))[:12]}",
                    sample=sample,
                )

    # -- documents -------------------------------------------------------------------------------

    def documents(self, data_dir: str | None = None) -> list[dict[str, Any]]:
        """The rows, needed and optional columns alone: the same from a file and from the hub.

        data_dir: a folder with `<name>.jsonl`; None takes the hub (or its cache).
        Raises: DataError naming the file and the line.
        """
        return self._from_hub() if data_dir is None else self._from_file(Path(data_dir))

    def identity(self, data_dir: str | None) -> dict[str, Any]:
        """What identifies the documents: a hash of the local file, or the name on the hub."""
        if data_dir is None:
            return {"hub": self.hub, "config": self.config, "split": self.split}
        path = self._path(Path(data_dir))
        return {"file": path.name, "content": keys.content_id(path.read_bytes())}

    def _path(self, folder: Path) -> Path:
        path = folder / f"{self.name}.jsonl"
        if not path.is_file():
            raise DataError(
                f"no file {path}; it should hold one JSON object a line with "
                f"{', '.join(self.columns)}"
            )
        return path

    def _from_hub(self) -> list[dict[str, Any]]:
        from datasets import load_dataset

        try:
            rows = load_dataset(self.hub, self.config, split=self.split)
        except Exception as error:  # datasets raises many kinds, offline ones too
            raise DataError(
                f"the documents of {self.name} ({self.hub}, split {self.split}) cannot be loaded: "
                f"{' '.join(str(error).split())[:200]}; give a folder that holds "
                f"{self.name}.jsonl (--data_dir DIR; evaluation.data_dir in a recipe; in lm-eval "
                "--metadata data_dir=DIR)"
            ) from error
        return [self._known(row, f"{self.hub}, row {i}") for i, row in enumerate(rows)]

    def _from_file(self, folder: Path) -> list[dict[str, Any]]:
        path = self._path(folder)
        # The reader names file and line of what is no JSON or no text.
        rows = [self._known(row.cells(), row.place) for row in read_rows(path)]
        if not rows:
            raise DataError(f"{path}: there is no row in it")
        return rows

    def _known(self, given: Row, place: str) -> dict[str, Any]:
        row = dict(given)
        for name, other in self.other_names.items():
            row.setdefault(name, row.get(other))
        for name, kind in self.columns.items():
            if not isinstance(row.get(name), kind) or not row[name]:
                raise DataError(
                    f"{place}: column {name!r} must be {'text' if kind is str else 'a list'} and "
                    f"not empty, found {str(row.get(name))[:60]!r}"
                )
        # Other columns go, so that documents of a file and of the hub have one hash.
        return {name: row.get(name) for name in (*self.columns, *self.optional)}


def response_id(name: str, prompt_ids: Sequence[int], sample: int) -> str:
    """The id of a response: equal work has an equal id, by whatever way it is asked for."""
    return keys.content_id(name, np.asarray(prompt_ids, dtype=np.int64).tobytes(), str(sample))
