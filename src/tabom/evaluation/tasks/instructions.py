"""IFEval: lm-eval's instruction checks, with nothing fetched behind the user's back."""

import importlib
import io
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.tasks.judged import Verdict, verdict

# These count sentences or split words with nltk's trained tables.
NEED_TABLES = frozenset(
    {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
)


def require(instruction_ids: Collection[str]) -> None:
    """Raise before anything is decoded if a check that the documents need cannot be done."""
    registry = _checks("instructions_registry").INSTRUCTION_DICT
    unknown = sorted(set(instruction_ids) - set(registry))
    if unknown:
        raise DataError(
            f"instruction {unknown[0]!r} of the documents is none of lm-eval's "
            f"{len(registry)} checks; were they made for another version?"
        )
    needed = sorted(NEED_TABLES & set(instruction_ids))
    if needed and not _has_tables():
        raise ConfigError(
            f"the check {needed[0]} needs nltk's sentence tables (punkt_tab), which are not on "
            "this machine: python -m nltk.downloader punkt_tab (once, with network), or copy "
            "nltk_data/tokenizers/punkt_tab here"
        )


def judge(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[Verdict]]:
    """Which instructions of its prompt each sample follows, strictly and loosely."""
    utils = _checks("utils")

    def one(response: str, doc: dict[str, Any]) -> Verdict:
        example = utils.InputExample(
            key=doc.get("key") or 0,
            instruction_id_list=doc["instruction_id_list"],
            prompt=doc["prompt"],
            kwargs=[{k: v for k, v in kwargs.items() if v is not None} for kwargs in doc["kwargs"]],
        )
        strict = utils.test_instruction_following_strict(example, response)
        loose = utils.test_instruction_following_loose(example, response)
        broken = [
            name
            for name, is_followed in zip(
                doc["instruction_id_list"], loose.follow_instruction_list, strict=True
            )
            if not is_followed
        ]
        is_correct = bool(loose.follow_all_instructions)
        return verdict(
            "",
            is_correct=is_correct,
            reason="accepted" if is_correct else "wrong",
            detail=", ".join(broken),
            strict=int(strict.follow_all_instructions),
            each_strict=[int(x) for x in strict.follow_instruction_list],
            each_loose=[int(x) for x in loose.follow_instruction_list],
        )

    return [
        [one(response, doc) for response in samples]
        for samples, doc in zip(resps, docs, strict=True)
    ]


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
