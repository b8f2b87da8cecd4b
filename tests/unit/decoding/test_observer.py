"""The observer of the decoding loop sees every reveal and changes nothing."""

from collections.abc import Callable

import numpy as np
import pytest

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.decoding.requests import StepView
from tabom.models.contract import MaskedDiffusionModel

Models = Callable[[str], MaskedDiffusionModel]
Requests = Callable[..., list[DecodeRequest]]

CONFIGS = [
    DecodingConfig(max_new_tokens=12),
    DecodingConfig(max_new_tokens=12, tokens_per_step=5, block_length=6),
    DecodingConfig(max_new_tokens=12, temperature=0.7, policy="random"),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("family", ["toy", "dream"])
def test_an_observer_that_scribbles_changes_no_result(
    family: str, config: DecodingConfig, models: Models, requests_of: Requests
) -> None:
    requests = requests_of([3, 5, 4])
    options = {"seed": 4, "batch_size": 2}

    def scribble(view: StepView) -> None:
        for array in (view.response_ids_BN, view.open_BN, view.step_BN, view.entropy_BN):
            array[:] = 1

    plain = list(Decoder(models(family), config, **options).in_order(requests))
    seen = list(Decoder(models(family), config, **options).in_order(requests, on_step=scribble))
    for a, b in zip(plain, seen, strict=True):
        for name in ("response_ids_N", "step_N", "entropy_N", "confidence_N"):
            np.testing.assert_array_equal(getattr(a.trajectory, name), getattr(b.trajectory, name))
        assert a.trajectory.num_forwards == b.trajectory.num_forwards


@pytest.mark.parametrize("config", CONFIGS)
def test_what_it_sees_is_what_the_trajectory_records(
    config: DecodingConfig, models: Models, requests_of: Requests
) -> None:
    model, requests = models("dream"), requests_of([3, 5, 4])
    views: list[StepView] = []
    decoded = Decoder(model, config, batch_size=3).in_order(requests, on_step=views.append)
    trajectories = {d.trajectory.id: d.trajectory for d in decoded}
    assert [view.step for view in views] == list(range(len(views)))
    for view in views:
        assert sorted(view.ids) == sorted(trajectories)
        for b, request_id in enumerate(view.ids):
            trajectory = trajectories[request_id]
            is_open_N = trajectory.step_N > view.step
            np.testing.assert_array_equal(view.open_BN[b], is_open_N)
            ids_N = np.where(is_open_N, model.ids.mask, trajectory.response_ids_N)
            np.testing.assert_array_equal(view.response_ids_BN[b], ids_N)
            np.testing.assert_array_equal(
                view.step_BN[b], np.where(is_open_N, -1, trajectory.step_N)
            )
            for name in ("entropy_N", "confidence_N"):
                recorded_N = np.where(is_open_N, np.nan, getattr(trajectory, name))
                np.testing.assert_array_equal(getattr(view, f"{name[:-2]}_BN")[b], recorded_N)
    assert not views[-1].open_BN.any()
