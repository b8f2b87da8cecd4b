"""Filters: counted reasons, streaming, and the error where nothing was accepted."""

from dataclasses import replace

import pytest

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict, VerdictLog, count_reasons
from tabom.verify.checker import Checker
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig
from tabom.verify.filters import accepted, judged, require_accepted, verify_trajectories


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


def test_a_trajectory_without_verdict_is_an_error():
    with pytest.raises(DataError, match=r"'y' has no verdict.*run verify again"):
        list(accepted([make("x"), make("y")], verdicts(x="accepted")))


def test_a_verdict_without_trajectory_is_an_error():
    with pytest.raises(DataError, match="1 verdicts belong to no trajectory here, the first 'q'"):
        list(accepted([make("x")], verdicts(x="accepted", q="wrong")))


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
        require_accepted({})


def test_what_is_judged_has_an_advantage():
    """1 and -1; nothing is known of the unverifiable; no answer is a wrong one."""
    trajectories = [make(name) for name in "abcd"]
    said = verdicts(a="accepted", b="wrong", c="unverifiable", d="no_answer")
    chosen, advantages = judged(trajectories, said)
    assert [t.id for t in chosen] == ["a", "b", "d"]
    assert advantages == {"a": 1.0, "b": -1.0, "d": -1.0}


def test_advantages_in_a_group_are_relative_to_its_mean():
    prompts = {"a": [1], "b": [1], "c": [1], "d": [1], "e": [2], "f": [2], "g": [3]}
    trajectories = [replace(make(name), prompt_ids=ids) for name, ids in prompts.items()]
    said = verdicts(
        a="accepted", b="wrong", c="wrong", d="truncated", e="accepted", f="accepted", g="wrong"
    )
    chosen, advantages = judged(trajectories, said, in_groups=True)
    assert [t.id for t in chosen] == ["a", "b", "c", "d"]  # the others have nothing to compare
    assert advantages == {"a": 0.75, "b": -0.25, "c": -0.25, "d": -0.25}
    with pytest.raises(DataError, match="num_samples"):
        judged(trajectories[4:], verdicts(e="accepted", f="accepted", g="wrong"), in_groups=True)
