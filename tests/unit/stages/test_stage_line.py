"""The line that tells that a stage is done."""

from tabom.stages.pool import _in_words


def test_counts_are_told_in_words_and_zeros_are_not() -> None:
    counts = {
        "num_trajectories": 12,
        "too_long": 0,
        "seconds": 13.818,
        "forwards": 19200,
        "trajectories_per_hour": 327654.3,
        "mfu": 0.21518,
        "chain@1": 0.0,
        "hops@1": 97.5,
        "steps": 1500,
    }
    assert _in_words(counts) == (
        "trajectories 12, seconds 13.8, trajectories per hour 327,654, mfu 0.215, chain@1 0, "
        "hops@1 97.5, steps 1,500"
    )
