"""Which checker judges a response. Light: recipes read it before anything heavy is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tabom.core.errors import ConfigError

CheckerType = Literal["exact", "number", "math", "code", "python", "function", "accept_all"]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Settings of the checker.

    type: exact (the whole response equals the reference), number (the final number equals the
        reference's: the light checker), math (symbolic equality by math-verify), code (the row's
        tests, in a sandbox), python (it ended and its Python compiles; nothing is run), function
        (one of yours), accept_all.
    function: "package.module:name" of `f(*, response, row, **args) -> (reason, detail)`; only for
        type function.
    args: further keyword arguments of that function; for math timeout_s, for code the limits of
        the sandbox (see docs/verification.md).
    num_workers: processes of math and code; null is one a core. It changes no verdict.
    """

    type: CheckerType = "exact"
    function: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    num_workers: int | None = None

    def __post_init__(self) -> None:
        types = get_args(CheckerType)
        if self.type not in types:
            raise ConfigError(f"verifier.type {self.type!r} is not one of {', '.join(types)}")
        if self.type == "function" and not self.function:
            raise ConfigError(
                "verifier.type function needs verifier.function, such as my_tasks.checks:is_right"
            )
        if self.type != "function" and self.function is not None:
            raise ConfigError(
                f"verifier.type {self.type} takes no function; drop it, or set verifier.type to "
                "function"
            )
        if self.type not in ("function", "math", "code") and self.args:
            raise ConfigError(
                f"verifier.type {self.type} takes no function and no args; drop them, or set "
                "verifier.type to function"
            )
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError(f"verifier.num_workers must be at least 1, got {self.num_workers}")
