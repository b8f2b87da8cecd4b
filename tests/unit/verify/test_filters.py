"""Filters: counted reasons, streaming, and the error where nothing was accepted."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict, VerdictLog, count_reasons
from tabom.verify.checker import Checker
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig
from tabom.verify.filters import judged, require_accepted, verify_trajectories


def make(name: str, response: str = "a", reference: str = "a") -> Trajectory:
    return Trajectory(
        id=name,
        prompt="p",
        prompt_ids=[3],
        response=response,
        response_ids_N=[5, 2],
        step_N=[0, 1],
        entropy_N=[0.1, 0.1],
        confidence_N=[0.9, 0.9],
        num_forwards=2,
        reference=reference,
    )


def verdicts(**reasons: str) -> dict[str, Verdict]:
    return {name: Verdict(reason) for name, reason in reasons.items()}


def test_verdicts_counts_and_ratio():
    trajectories = [make("x"), make("y", "b"), make("z"), make("w", reference="")]
    checker = build_checker(VerifierConfig())
    done = []
    found = verify_trajectories(
        iter(trajectories), checker, mask_id=1, end_ids=(2,), progress=done.append
    )
    assert list(found) == ["x", "y", "z", "w"]
    assert done == [1, 2, 3, 4]
    counts = count_reasons(found.values())
    assert counts == {"accepted": 2, "wrong": 1, "unverifiable": 1, "no_answer": 0, "truncated": 0}
    assert list(counts) == list(REASONS)


def test_verdicts_are_kept_as_they_come_and_not_given_twice(tmp_path):
    log = tmp_path / "log.jsonl"
    judged = []

    def judge(response):
        if len(judged) == 2:
            raise DataError("the machine stops here")
        judged.append(response.text)
        return Verdict("accepted", response.text)

    checker = Checker(name="c", judge=judge)
    trajectories = [make(name, name) for name in "xyz"]
    with pytest.raises(DataError, match="stops here"):
        verify_trajectories(trajectories, checker, mask_id=1, end_ids=(2,), log=log)
    assert list(VerdictLog(log).verdicts) == ["x", "y"]
    with log.open("ab") as file:
        file.write(b'{"id": "z", "rea')  # the power went here
    judged.clear()
    found = verify_trajectories(trajectories, checker, mask_id=1, end_ids=(2,), log=log)
    assert judged == ["z"]
    assert {key: verdict.detail for key, verdict in found.items()} == {"x": "x", "y": "y", "z": "z"}
    assert not log.exists()


def test_two_trajectories_of_one_id_are_an_error():
    checker = build_checker(VerifierConfig())
    with pytest.raises(DataError, match="'x' occurs twice"):
        verify_trajectories([make("x"), make("x")], checker, mask_id=1, end_ids=(2,))


def table(**reasons: str) -> pa.Table:
    said = {"id": [*reasons], "reason": [*reasons.values()]}
    return pa.table(said, schema=pa.schema([("id", pa.string()), ("reason", pa.string())]))


def names(
    stored: list[str], said: pa.Table, *, together: int = 2, with_rejected: bool = False
) -> dict[str, bool]:
    """Which rows of a store train, and whether each was accepted."""
    batches = (
        pa.RecordBatch.from_pydict({"id": stored[i : i + together]})
        for i in range(0, len(stored), together)
    )
    found = judged(batches, said, with_rejected=with_rejected)
    return {
        name: bool(is_right)
        for batch, accepted in found
        for name, is_right in zip(batch.column("id").to_pylist(), accepted, strict=True)
    }


@given(st.data())
def test_rows_find_their_verdicts_in_whatever_order(data):
    ids = [f"t{i}" for i in range(data.draw(st.integers(1, 9)))]
    said = {i: data.draw(st.sampled_from(REASONS)) for i in data.draw(st.permutations(ids))}
    stored, together = data.draw(st.permutations(ids)), data.draw(st.integers(1, 4))
    found = names(stored, table(**said), together=together)
    assert found == {i: True for i in stored if said[i] == "accepted"}
    assert [*found] == [i for i in stored if said[i] == "accepted"]  # as they are stored
    # Nothing is known of the unverifiable; no answer is a wrong one.
    found = names(stored, table(**said), together=together, with_rejected=True)
    assert found == {i: said[i] == "accepted" for i in stored if said[i] != "unverifiable"}


def test_rows_stream():
    seen = []

    def source():
        for name in "xyz":
            seen.append(name)
            yield pa.RecordBatch.from_pydict({"id": [name]})

    next(judged(source(), table(x="accepted", y="wrong", z="accepted")))
    assert seen == ["x"]


@pytest.mark.parametrize(
    ("stored", "said", "why"),
    [
        ("xy", {"x": "accepted"}, r"'y' has no verdict.*run verify again"),
        ("y", {"x": "accepted"}, "'y' has no verdict"),
        ("y", {}, "'y' has no verdict"),
        ("xyx", {"x": "accepted", "y": "wrong"}, "'x' .*occurs twice"),
        ("xx", {"x": "accepted", "y": "wrong"}, "'x' .*occurs twice"),
        ("x", {"x": "accepted", "q": "wrong"}, "1 verdicts belong to no trajectory.* 'q'"),
        ("x", {"q": "wrong", "x": "accepted"}, "1 verdicts belong to no trajectory.* 'q'"),
    ],
)
def test_rows_and_verdicts_must_be_of_each_other(stored, said, why):
    for together in (1, 2, 3):
        with pytest.raises(DataError, match=why):
            names([*stored], table(**said), together=together)


def test_an_empty_accepted_set_says_how_many_and_shows_three():
    trajectories = [make(name, f"answer {name}", "gold") for name in "abcd"]
    with pytest.raises(DataError) as error:
        require_accepted(
            verdicts(a="wrong", b="truncated", c="wrong", d="wrong"), trajectories=trajectories
        )
    text = str(error.value)
    assert "accepted none of 4 trajectories (wrong 3, truncated 1)" in text
    assert "raise decoding max_new_tokens" in text
    assert "  truncated: response 'answer b', reference 'gold'" in text
    assert "answer c" in text
    assert "answer d" not in text


def test_long_responses_are_cut_in_the_message():
    with pytest.raises(DataError) as error:
        require_accepted(verdicts(a="wrong"), trajectories=[make("a", "x" * 1000)])
    assert "x" * 120 + "..." in str(error.value)
    assert "x" * 121 not in str(error.value)


def test_no_verdicts_at_all():
    with pytest.raises(DataError, match=r"none of 0 trajectories \(there are no verdicts\)"):
        require_accepted({})
