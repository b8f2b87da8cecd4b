"""Which checker judges a response. Light: recipes read it before anything heavy is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tabom.core.configs import Count, Settings
from tabom.core.errors import ConfigError
from tabom.core.identity import FREE

CheckerType = Literal["exact", "number", "math", "code", "python", "function", "accept_all"]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig(Settings):
    """Settings of the checker."""

    type: CheckerType = "exact"
    """exact (the whole response equals the reference), number (the final number equals the
    reference's: the light checker), math (symbolic equality by math-verify), code (the row's
    tests, in a sandbox), python (it ended and its Python compiles; nothing is run), function (one
    of yours), accept_all."""
    function: str | None = None
    """"package.module:name" of `f(*, response, row, **args) -> (reason, detail)`; only for type
    function."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of that function; for math timeout_s, for code the limits of the
    sandbox (see docs/verification.md)."""
    num_workers: Count | None = field(default=None, metadata=FREE)
    """Processes of math and code; null is one a core. It changes no verdict."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
