"""A stopped evaluation goes on with what is on disk, and ends as if it had never been stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.evaluation.run import evaluate
from tabom.evaluation.sets import EvaluationSet
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import TrajectoryWriter
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

SPEEDS = (2, 8)
NUM_ROWS = 10  # five questions at two paces


class StoppedError(Exception):
    pass


@dataclass
class Spy:
    """Counts what `decode` gives; stops it before response number `stop_at`."""

    stop_at: int | None = None
    ids: list[str] = field(default_factory=list)


@pytest.fixture
def spy(monkeypatch):
    state, original = Spy(), Decoder.decode

    def decode(self, *args, **options):
        for item in original(self, *args, **options):
            if len(state.ids) == state.stop_at:
                raise StoppedError
            state.ids.append(item.trajectory.id)
            yield item

    monkeypatch.setattr(Decoder, "decode", decode)
    return state


CHECKER = build_checker(VerifierConfig(type="function", function="tabom.toyworld.tasks:check"))


def run(model, requests, *, tokens_per_step=(1,), decoding=None, judge=CHECKER, **options):
    decoding = {"max_new_tokens": 16, **(decoding or {})}
    one = EvaluationSet(
        name="chain",
        role="in_domain",
        questions=requests,
        decodings=[DecodingConfig(**{**decoding, "tokens_per_step": k}) for k in tokens_per_step],
        judges={"accuracy": judge},
    )
    known = {"seed": 0, "batch_size": 4}
    with TemporaryDirectory() as empty:
        (result,) = evaluate(model, [one], **{**known, "folder": Path(empty), **options})
    return result


def kept(folder):
    """The responses of each part that are safely on disk."""
    parts = {path.parent for path in folder.glob("**/partial")}
    return {part: TrajectoryWriter(part).done() for part in parts}


def same(a, b):
    assert a.records == b.records
    assert to_arrow(a.trajectories).equals(to_arrow(b.trajectories))
    assert list(a.fields) == list(b.fields)
    for name in a.fields:
        np.testing.assert_array_equal(a.fields[name], b.fields[name])
        assert a.fields[name].dtype == b.fields[name].dtype
    assert (a.totals, a.manifests) == (b.totals, b.manifests)


@pytest.mark.parametrize("stop_at", range(NUM_ROWS))
def test_stopped_anywhere_it_ends_the_same(model, requests, spy, tmp_path, stop_at):
    # One row at a time: then a result is the same to the last bit whatever is left to decode.
    options = {"tokens_per_step": SPEEDS, "num_fields": 2, "batch_size": 1}
    whole = run(model, requests, **options)
    assert len(spy.ids) == NUM_ROWS
    order, spy.ids, spy.stop_at = spy.ids, [], stop_at
    folder = tmp_path / "kept"
    with pytest.raises(StoppedError):
        run(model, requests, folder=folder, **options)
    assert (
        sum(map(len, kept(folder).values())) == stop_at
    )  # each is on disk when it leaves the batch
    spy.ids, spy.stop_at = [], None
    done = []
    again = run(
        model, requests, folder=folder, progress=lambda *given: done.append(given), **options
    )
    assert spy.ids == order[stop_at:]
    decoded = [given for given in done if len(given) == 2]
    assert decoded == [(i + 1, NUM_ROWS) for i in range(stop_at, NUM_ROWS)]
    same(again, whole)
    spy.ids = []
    same(run(model, requests, folder=folder, **options), whole)
    assert spy.ids == []


def test_batches_cut_anywhere_give_equal_answers(model, requests, spy, tmp_path):
    whole = run(model, requests, tokens_per_step=SPEEDS, num_fields=3)
    spy.ids, spy.stop_at = [], 4
    with pytest.raises(StoppedError):
        run(model, requests, tokens_per_step=SPEEDS, num_fields=3, folder=tmp_path)
    spy.stop_at = None
    again = run(model, requests, tokens_per_step=SPEEDS, num_fields=3, folder=tmp_path)
    assert again.records == whole.records
    assert [t.id for t in again.trajectories] == [t.id for t in whole.trajectories]
    for name, field_KN in whole.fields.items():
        np.testing.assert_allclose(again.fields[name], field_KN, rtol=0, atol=1e-4)


def test_a_torn_file_is_decoded_again(model, requests, spy, tmp_path):
    whole = run(model, requests, num_fields=1, batch_size=1, folder=tmp_path)
    path = min((tmp_path / "0" / "1" / "partial").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    spy.ids = []
    same(run(model, requests, num_fields=1, batch_size=1, folder=tmp_path), whole)
    assert spy.ids == [requests[0].id]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        # Rows 0 to 2 are on disk, batches are (0, 1), (2, 3), (4,).
        ({"policy": "entropy"}, [2, 3, 4]),
        # Where it draws, each response is decoded alone, with a stream of its own.
        ({"policy": "entropy", "temperature": 0.7}, [3, 4]),
        ({"policy": "origin"}, [3, 4]),
        ({"policy": "entropy", "alg_temp": 0.5}, [3, 4]),
    ],
)
def test_official_functions_see_the_same_batches(
    model,
    requests,
    spy,
    tmp_path,
    monkeypatch,
    options,
    left,
):
    from tabom.models.family import Family

    family = Family(name="dream", alignment="identity", official_decoding="dream")
    monkeypatch.setattr(model, "family", family)
    known = {
        "decoding": {"schedule": "official", **options},
        "batch_size": 2,
        "num_fields": 0,
    }
    whole = run(model, requests, **known)
    if len(left) == 2:
        assert run(model, requests, **{**known, "batch_size": 5}).records == whole.records
    spy.ids, spy.stop_at = [], 3
    with pytest.raises(StoppedError):
        run(model, requests, folder=tmp_path, **known)
    spy.ids, spy.stop_at = [], None
    again = run(model, requests, folder=tmp_path, **known)
    assert spy.ids == [requests[i].id for i in left]
    assert again.records == whole.records
    assert to_arrow(again.trajectories).equals(to_arrow(whole.trajectories))


def test_verdicts_are_kept_as_they_come(model, requests, tmp_path):
    asked = []

    def judge(response):
        asked.append(response.row["id"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return Verdict("accepted", f"number {len(asked)}")

    checker = Checker(name="slow", judge=judge)
    with pytest.raises(KeyboardInterrupt):
        run(model, requests, judge=checker, folder=tmp_path)
    result = run(model, requests, judge=checker, folder=tmp_path)
    ids = [question.id for question in requests]
    assert asked == [*ids[:3], *ids[2:]]
    assert [r.detail for r in result.records] == [f"number {i}" for i in (1, 2, 4, 5, 6)]


def test_nothing_is_left_where_nothing_was_decoded(model, requests, tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        run(model, requests, batch_size=0, folder=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_field_is_kept_beside_its_response(model, requests, tmp_path):
    run(model, requests[:2], num_fields=1, folder=tmp_path)
    kept = TrajectoryWriter(tmp_path / "0" / "1").kept()
    has_field = {one.trajectory.id: one.field_KN is not None for one in kept}
    assert has_field == {requests[0].id: True, requests[1].id: False}
