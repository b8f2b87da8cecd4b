"""What a checker is: it gives one verdict, with its reason, for every response."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tabom.core.errors import TabomError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import Verdict

_CLOCK_S = 60.0  # for what has no clock of its own: the light checkers, and a function of a user


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response with what is known of its right answer.

    text: up to the first end token. reference: the gold answer, "" if none. row: the prompt's
    columns, with tests where there are some. ended: whether there is an end token. num_holes:
    slots before the end that were never revealed; the text leaves them out.
    """

    text: str
    reference: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    ended: bool = True
    num_holes: int = 0

    @classmethod
    def of(cls, trajectory: Trajectory, *, mask_id: int, end_ids: Sequence[int]) -> "Response":
        """The response of a trajectory.

        mask_id: the id that a slot never revealed holds. end_ids: every id that ends a response.
        """
        ids = trajectory.response_ids_N.tolist()
        end = next((i for i, token in enumerate(ids) if token in end_ids), None)
        return cls(
            text=trajectory.response,
            reference=trajectory.reference,
            row=row_of(trajectory),
            ended=end is not None,
            num_holes=ids[:end].count(mask_id),
        )


Judge = Callable[[Response], Verdict]


@dataclass(frozen=True, kw_only=True)
class Checker:
    """Judges responses.

    name: what a verdict records as its verifier. judge: the judgement on one response.
    needs_complete: a response with a hole is truncated whatever its text says: the text leaves
        the hole out, so it could otherwise pass for a right answer.
    num_parallel: how many judgements may be asked for at a time, each from a thread of its own;
        the work itself is then done by other processes, under clocks of their own.
    """

    name: str
    judge: Judge
    needs_complete: bool = True
    num_parallel: int = 1

    def judge_one(self, response: Response) -> Verdict:
        """The verdict on one response. Raises nothing but TabomError, which no row can mend."""
        if self.needs_complete and response.num_holes:
            detail = f"{response.num_holes} slots before the end were never revealed"
            return Verdict("truncated", detail, self.name)
        try:
            with _clock(_CLOCK_S):
                verdict = self.judge(response)
        except TabomError:
            raise
        except (Exception, RecursionError, MemoryError) as error:
            # One odd response must not end a run of thousands.
            detail = f"it could not be judged: {type(error).__name__}: {str(error)[:200]}"
            verdict = Verdict("unverifiable", detail)
        return replace(verdict, verifier=self.name)

    def judge_many(
        self, responses: Iterable[Response], *, progress: Callable[[int], None] | None = None
    ) -> Iterator[Verdict]:
        """The verdicts on many responses, in their order, as they come; side by side where it can.

        responses: any iterable; a few more than are at work are held at a time.
        progress: called with how many are done.
        """
        for done, verdict in enumerate(self._side_by_side(responses), start=1):
            if progress is not None:
                progress(done)
            yield verdict

    def _side_by_side(self, responses: Iterable[Response]) -> Iterator[Verdict]:
        if self.num_parallel == 1:
            yield from map(self.judge_one, responses)
            return
        waiting: deque[Future[Verdict]] = deque()
        pool = ThreadPoolExecutor(self.num_parallel, thread_name_prefix="verify")
        try:
            for response in responses:
                waiting.append(pool.submit(self.judge_one, response))
                if len(waiting) >= 4 * self.num_parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def row_of(trajectory: Trajectory) -> dict[str, Any]:
    """The prompt row as a task's function sees it: prompt, reference, task and further columns."""
    own = {
        "prompt": trajectory.prompt,
        "reference": trajectory.reference,
        "task": trajectory.task,
    }
    return {**own, **trajectory.row}


@contextmanager
def _clock(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after some seconds; only a main thread can be stopped so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no verdict within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
