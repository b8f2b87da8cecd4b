"""An evaluation set of one's own: one file."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tabom.evaluation.benchmark import Benchmark
from tabom.verify.checker import Checker
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig


class Capitals(Benchmark):
    """Capitals of countries."""

    name, hub = "capitals", "me/capitals"
    columns: ClassVar = {"country": str, "capital": str}
    max_new_tokens = 6

    def prompt(self, row: Mapping[str, Any]) -> str:
        return f"What is the capital of {row['country']}?"

    def reference(self, row: Mapping[str, Any]) -> str:
        return str(row["capital"])

    def judges(
        self, rows: Sequence[Mapping[str, Any]], *, unsafe_exec: bool = False
    ) -> dict[str, Checker]:
        return {"exact": build_checker(VerifierConfig(type="exact"))}


BENCHMARK = Capitals()
