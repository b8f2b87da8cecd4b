"""Filters: counted reasons, streaming, and the error where nothing was accepted."""

import pytest

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig
from tabom.verify.filters import accepted, accepted_ratio, require_accepted, verify_trajectories


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


def verdicts(**reasons: str) -> list[Verdict]:
    return [Verdict(name, reason) for name, reason in reasons.items()]


def test_verdicts_counts_and_ratio():
    trajectories = [make("x"), make("y", "b"), make("z"), make("w", reference="")]
    checker = build_checker(VerifierConfig())
    found, counts = verify_trajectories(iter(trajectories), checker, mask_id=1, end_ids=(2,))
    assert [v.id for v in found] == ["x", "y", "z", "w"]
    assert counts == {"accepted": 2, "wrong": 1, "unverifiable": 1, "no_answer": 0, "truncated": 0}
    assert list(counts) == list(REASONS)
    assert accepted_ratio(counts) == 0.5


def test_ratio_of_nothing_is_zero():
    _, counts = verify_trajectories([], build_checker(VerifierConfig()), mask_id=1, end_ids=(2,))
    assert accepted_ratio(counts) == 0.0


def test_verifying_streams():
    seen = []

    def source():
        for name in "xyz":
            seen.append(name)
            yield make(name)

    trajectories = accepted(source(), verdicts(x="accepted", y="wrong", z="accepted"))
    assert next(trajectories).id == "x"
    assert seen == ["x"]
    assert [t.id for t in trajectories] == ["z"]


def test_a_mapping_of_verdicts_will_do():
    by_id = {v.id: v for v in verdicts(x="accepted", y="wrong")}
    assert [t.id for t in accepted([make("x"), make("y")], by_id)] == ["x"]


def test_a_trajectory_without_verdict_is_an_error():
    with pytest.raises(DataError, match=r"'y' has no verdict.*run verify again"):
        list(accepted([make("x"), make("y")], verdicts(x="accepted")))


def test_a_verdict_without_trajectory_is_an_error():
    with pytest.raises(DataError, match="1 verdicts belong to no trajectory here, the first 'q'"):
        list(accepted([make("x")], verdicts(x="accepted", q="wrong")))


def test_two_verdicts_of_one_id_are_an_error_at_once():
    with pytest.raises(DataError, match="two verdicts for trajectory 'x'"):
        accepted([make("x")], [Verdict("x", "accepted"), Verdict("x", "wrong")])


def test_an_empty_accepted_set_says_how_many_and_shows_three():
    trajectories = [make(name, f"answer {name}", "gold") for name in "abcd"]
    with pytest.raises(DataError) as error:
        accepted(trajectories, verdicts(a="wrong", b="truncated", c="wrong", d="wrong"))
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
        require_accepted([])
