"""IFEval: lm-eval's own instruction checks, with nothing fetched behind the user's back.

The paper's number is the loose accuracy of whole prompts.
"""

import importlib
import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any, ClassVar

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.benchmark import Benchmark, Row
from tabom.evaluation.records import EvaluationRecord
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response

# These count sentences or split words with nltk's trained tables.
NEED_TABLES = frozenset(
    {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
)
_KINDS = ("loose", "strict")


class IFEval(Benchmark):
    """Prompts with instructions that a program can check."""

    name = "ifeval"
    hub, split = "google/IFEval", "train"
    num_documents = 541
    columns: ClassVar = {"prompt": str, "instruction_id_list": list, "kwargs": list}
    optional = ("key",)
    max_new_tokens = 1280

    def prompt(self, row: Row) -> str:
        return str(row["prompt"])

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        require({i for row in rows for i in row["instruction_id_list"]})
        return {f"prompt_level_{kind}_acc,none": _judge(kind) for kind in _KINDS}

    def numbers(self, row: Row, text: str) -> dict[str, float]:
        followed = {kind: instructions_followed(row, text, kind=kind) for kind in _KINDS}
        counts = {f"instructions_{kind}": float(sum(each)) for kind, each in followed.items()}
        return {**counts, "instructions": float(len(row["instruction_id_list"]))}

    def totals(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        def total(name: str) -> float:
            return sum(record.metrics[name] or 0.0 for record in records)

        # Over all instructions of all documents, of which some have more than others.
        return {
            f"inst_level_{kind}_acc,none": total(f"instructions_{kind}") / total("instructions")
            for kind in _KINDS
        }


def require(instruction_ids: Collection[str]) -> None:
    """Raise before anything is decoded if a check that the documents need cannot be done."""
    registry = _checks("instructions_registry").INSTRUCTION_DICT
    unknown = sorted(set(instruction_ids) - set(registry))
    if unknown:
        raise DataError(
            f"instruction {unknown[0]!r} of the documents is none of lm-eval's "
            f"{len(registry)} checks; were they made for another version?"
        )
    # Without its tables nltk would raise in the middle of judging, after hours of decoding.
    needed = sorted(NEED_TABLES & set(instruction_ids))
    if needed and not _has_tables():
        raise ConfigError(
            f"the check {needed[0]} needs nltk's sentence tables (punkt_tab), which are not on "
            "this machine: python -m nltk.downloader punkt_tab (once, with network), or copy "
            "nltk_data/tokenizers/punkt_tab here"
        )


def instructions_followed(row: Mapping[str, Any], text: str, *, kind: str) -> list[bool]:
    """Whether a response follows each instruction of its prompt. kind: loose or strict."""
    utils = _checks("utils")
    example = utils.InputExample(
        key=row.get("key") or 0,
        instruction_id_list=row["instruction_id_list"],
        prompt=row["prompt"],
        # As `datasets` gives them: every key in every row, most of them None.
        kwargs=[{k: v for k, v in kwargs.items() if v is not None} for kwargs in row["kwargs"]],
    )
    check = getattr(utils, f"test_instruction_following_{kind}")
    return [bool(each) for each in check(example, text).follow_instruction_list]


def _judge(kind: str) -> Checker:
    def judge(response: Response) -> Verdict:
        followed = instructions_followed(response.row, response.text, kind=kind)
        names = response.row["instruction_id_list"]
        broken = [n for n, is_followed in zip(names, followed, strict=True) if not is_followed]
        return Verdict("wrong" if broken else "accepted", ", ".join(broken))

    return Checker(name=f"ifeval {kind}", judge=judge, needs_complete=False)


def _has_tables() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def _checks(name: str) -> ModuleType:
    """A module of lm-eval's ifeval task. Importing it would fetch tables: that is left out."""
    try:
        import langdetect
        import nltk

        fetch = nltk.download
        nltk.download = lambda *_, **__: False
        try:
            with redirect_stdout(io.StringIO()):  # it says that it has fetched them
                module = importlib.import_module(f"lm_eval.tasks.ifeval.{name}")
        finally:
            nltk.download = fetch
    except ImportError as error:
        raise ConfigError(
            f"the checks of IFEval need lm-eval with langdetect, immutabledict and nltk ({error}): "
            "pip install 'tabom[eval]'"
        ) from error
    langdetect.DetectorFactory.seed = 0  # it draws otherwise, and a verdict would change
    return module


BENCHMARK = IFEval()
