"""A stopped evaluation goes on with what is on disk, and ends as if it had never been stopped."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.evaluation.run import evaluate_set
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import TrajectoryWriter
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

SPEEDS = (2, 8)
NUM_ROWS = 10  # five requests at two speeds


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


def run(model, requests, **options):
    known = {
        "name": "chain",
        "role": "in_domain",
        "checker": build_checker(
            VerifierConfig(type="function", function="tabom.toyworld.tasks:check")
        ),
        "decoding": DecodingConfig(max_new_tokens=16),
        "seed": 0,
        "batch_size": 4,
    }
    return evaluate_set(model, requests, **{**known, **options})


def same(a, b):
    assert a.records == b.records
    assert to_arrow(a.trajectories).equals(to_arrow(b.trajectories))
    assert list(a.fields) == list(b.fields)
    for name in a.fields:
        np.testing.assert_array_equal(a.fields[name], b.fields[name])
        assert a.fields[name].dtype == b.fields[name].dtype
    np.testing.assert_array_equal(a.tds.mean_K, b.tds.mean_K)


@pytest.mark.parametrize("stop_at", range(NUM_ROWS))
def test_stopped_anywhere_it_ends_the_same(model, requests, spy, tmp_path, stop_at):
    # One row at a time: then a result is the same to the last bit whatever is left to decode.
    options = {"tokens_per_step": SPEEDS, "record_field_for": 2, "batch_size": 1}
    whole = run(model, requests, **options)
    assert len(spy.ids) == NUM_ROWS
    order, spy.ids, spy.stop_at = spy.ids, [], stop_at
    folder = tmp_path / "kept"
    with pytest.raises(StoppedError):
        run(model, requests, folder=folder, **options)
    kept = {p: TrajectoryWriter(p).done() for p in folder.glob("*")}
    assert sum(map(len, kept.values())) == stop_at  # each is on disk when it leaves the batch
    spy.ids, spy.stop_at = [], None
    done = []
    again = run(
        model, requests, folder=folder, progress=lambda i, n: done.append((i, n)), **options
    )
    assert spy.ids == order[stop_at:]
    assert done == [(i + 1, NUM_ROWS) for i in range(NUM_ROWS)]
    same(again, whole)
    spy.ids = []
    same(run(model, requests, folder=folder, **options), whole)
    assert spy.ids == []


def test_batches_cut_anywhere_give_equal_answers(model, requests, spy, tmp_path):
    whole = run(model, requests, tokens_per_step=SPEEDS, record_field_for=3)
    spy.ids, spy.stop_at = [], 4
    with pytest.raises(StoppedError):
        run(model, requests, tokens_per_step=SPEEDS, record_field_for=3, folder=tmp_path)
    spy.stop_at = None
    again = run(model, requests, tokens_per_step=SPEEDS, record_field_for=3, folder=tmp_path)
    assert again.records == whole.records
    assert [t.id for t in again.trajectories] == [t.id for t in whole.trajectories]
    for name, field_KN in whole.fields.items():
        np.testing.assert_allclose(again.fields[name], field_KN, rtol=0, atol=1e-4)


def test_a_torn_file_is_decoded_again(model, requests, spy, tmp_path):
    whole = run(model, requests, record_field_for=1, batch_size=1, folder=tmp_path)
    (path,) = (tmp_path / "1-fields" / "partial").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    spy.ids = []
    same(run(model, requests, record_field_for=1, batch_size=1, folder=tmp_path), whole)
    assert spy.ids == [requests[0].id]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        # Rows 0 to 2 are on disk, batches are (0, 1), (2, 3), (4,).
        ({"policy": "entropy"}, [2, 3, 4]),
        ({"policy": "entropy", "temperature": 0.7}, [0, 1, 2, 3, 4]),
        ({"policy": "origin"}, [0, 1, 2, 3, 4]),
        ({"policy": "entropy", "alg_temp": 0.5}, [0, 1, 2, 3, 4]),
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
        "decoding": DecodingConfig(schedule="official", max_new_tokens=16, **options),
        "batch_size": 2,
        "record_field_for": 0,
    }
    whole = run(model, requests, **known)
    spy.ids, spy.stop_at = [], 3
    with pytest.raises(StoppedError):
        run(model, requests, folder=tmp_path, **known)
    spy.ids, spy.stop_at = [], None
    again = run(model, requests, folder=tmp_path, **known)
    assert spy.ids == [requests[i].id for i in left]
    assert again.records == whole.records
    assert to_arrow(again.trajectories).equals(to_arrow(whole.trajectories))


def test_nothing_is_left_where_nothing_was_decoded(model, requests, tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        run(model, requests, batch_size=0, folder=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_field_is_kept_beside_its_response(model, requests, tmp_path):
    run(model, requests[:2], record_field_for=1, folder=tmp_path)
    for name, has_field in (("1-fields", True), ("1", False)):
        (kept,) = TrajectoryWriter(tmp_path / name).kept()
        assert (kept.field_KN is not None) == has_field


def test_ids_must_differ(model, requests):
    with pytest.raises(DataError, match="2 requests have 1 different ids"):
        run(model, [requests[0], requests[0]])
