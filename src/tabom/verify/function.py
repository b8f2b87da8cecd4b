"""A function of the user's as a checker: wired once, and stopped early where it never works."""

import inspect
import traceback

from tabom.core.errors import ConfigError, DataError
from tabom.core.hooks import load_function
from tabom.trajectory.verdicts import REASONS, Verdict
from tabom.verify.checker import Response
from tabom.verify.config import VerifierConfig

_NUM_TRIES = 5  # calls that may all fail before the function, and no row, is at fault


class FunctionJudge:
    """Calls `f(*, response, row, **args)`, which gives (reason, detail) or a bool.

    An exception makes the row unverifiable, since one odd row must not end a long run; exceptions
    in each of the first calls are the function's own fault, and stop the run.
    Raises: ConfigError if the function is not found or cannot be called so.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._path = str(config.function)
        self._args = config.args
        self._function = load_function(self._path)
        self._num_failed = 0
        self._has_worked = False
        try:
            signature = inspect.signature(self._function)
        except (ValueError, TypeError):  # of C, which tells nothing of its arguments
            return
        try:
            signature.bind(response="", row={}, **config.args)
        except TypeError as error:
            given = "".join(f", {name}" for name in config.args)
            raise ConfigError(
                f"verifier {self._path} is {signature}, and is called as "
                f"(*, response, row{given}): {error}; mend the function or verifier.args"
            ) from error

    def __call__(self, response: Response) -> Verdict:
        """The verdict of the function, in our words."""
        try:
            answer = self._function(response=response.text, row=dict(response.row), **self._args)
        except Exception as error:
            self._count_failure(error)
            return Verdict("unverifiable", f"{self._path} raised {type(error).__name__}: {error}")
        self._has_worked = True
        if isinstance(answer, bool):
            answer = ("accepted" if answer else "wrong", "")
        if isinstance(answer, Verdict):
            answer = (answer.reason, answer.detail)
        if (
            not isinstance(answer, (tuple, list))
            or len(answer) != 2
            or answer[0] not in REASONS
            or not isinstance(answer[1], str)
        ):
            # Not one row's fault: it would be so for every row.
            raise DataError(
                f"verifier {self._path} returned {answer!r}; expected true, false or "
                f"(reason, detail): a reason of {', '.join(REASONS)}, and a text"
            )
        reason, detail = answer
        if reason == "no_answer" and not response.ended:
            return Verdict("truncated", f"no end token; {detail}" if detail else "no end token")
        return Verdict(reason, detail)

    def _count_failure(self, error: Exception) -> None:
        self._num_failed += 1
        if self._has_worked or self._num_failed < _NUM_TRIES:
            return
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        raise ConfigError(
            f"verifier {self._path} raised an exception in each of its first {_NUM_TRIES} calls; "
            f"the last:\n{''.join(lines[-3:]).rstrip()}"
        ) from error
