"""Which checker judges a response. Light: recipes read it before anything heavy is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tabom.core.errors import ConfigError

CheckerType = Literal["exact", "number", "function", "accept_all"]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Settings of the checker.

    type: exact (the whole response equals the reference), number (the final number equals the
        reference's: the light checker), function (one of yours), accept_all.
    function: "package.module:name" of `f(*, response, row, **args) -> (reason, detail)`; only for
        type function.
    args: further keyword arguments of that function.
    """

    type: CheckerType = "exact"
    function: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = get_args(CheckerType)
        if self.type not in types:
            raise ConfigError(f"verifier.type {self.type!r} is not one of {', '.join(types)}")
        if self.type == "function" and not self.function:
            raise ConfigError(
                "verifier.type function needs verifier.function, such as my_tasks.checks:is_right"
            )
        if self.type != "function" and (self.function is not None or self.args):
            raise ConfigError(
                f"verifier.type {self.type} takes no function and no args; drop them, or set "
                "verifier.type to function"
            )
