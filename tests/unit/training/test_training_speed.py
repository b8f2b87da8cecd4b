import logging

import pytest
import torch

from tabom.models.sizes import ModelSizes
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.training.progress import note_of, warn_of_warmup
from tabom.training.speed import Speed, peak_memory, work_of

SIZES = ModelSizes(
    hidden_size=4,
    intermediate_size=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=10,
    num_parameters=300,
)


def test_work_is_counted_without_padding() -> None:
    ones = torch.ones(2, 3, dtype=torch.int64)
    batch = TrajectoryBatch(
        prompt_ids_BP=torch.zeros(2, 4, dtype=torch.int64),
        prompt_mask_BP=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        response_ids_BN=ones,
        key_B=ones[:, 0],
        slot_BN=ones.bool(),
        length_B=ones[:, 0] * 3,
        mask_id=9,
    )
    rows = torch.tensor([0, 1, 1])
    context = Context(
        input_ids_BN=ones, row_batch_R=rows, row_slot_R=rows, label_R=rows,
        ce_weight_R=rows.float(), window_BW=ones,
    )  # fmt: skip
    assert work_of(batch, context) == {
        "tokens": 5 + 7, "padded_tokens": 14, "squared_lengths": 25 + 49, "rows": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("world_size", "has_own_device", "peaks"), [(1, True, 1), (2, True, 2),
                                                                    (2, False, 1)])  # fmt: skip
def test_figures_by_hand(world_size: int, has_own_device: bool, peaks: int) -> None:
    now, asked = [0.0], []

    def peak() -> tuple[float, bool]:
        asked.append(1)
        now[0] += 100.0  # measuring it takes time that is not the training's
        return 1000.0, has_own_device

    speed = Speed(
        SIZES, lora_parameters=None, world_size=world_size, peak=peak, clock=lambda: now[0]
    )
    assert speed.whole() == {}
    now[0] = 50.0
    speed.start()
    now[0] = 53.0
    with speed.paused():
        now[0] = 60.0
    now[0] = 61.0
    speed.start()  # runs already
    sums = {"tokens": 12.0, "padded_tokens": 16.0, "squared_lengths": 74.0, "rows": 3.0}
    lap = speed.lap(sums)
    # Weights of the layer: 2 * 4 * (4 + 4) + 3 * 4 * 8 = 160; head 40. Three units of 2 FLOPs.
    flops = 6 * (12 * 160 + 3 * 40) + 3.5 * (4 * 74 * 4)
    assert lap == pytest.approx(
        {"tokens_per_second": 3.0, "padding": 0.25, "mfu": flops / 4 / (1000 * peaks)}
    )
    now[0] += 8.0
    lap = speed.lap(sums)
    assert lap["tokens_per_second"] == 1.5
    assert speed.whole()["tokens_per_second"] == pytest.approx(2.0)
    assert speed.whole()["mfu"] == pytest.approx(2 * flops / 12 / (1000 * peaks))
    assert asked == [1]


def test_an_adapter_costs_less_than_all_weights() -> None:
    sums = {"tokens": 12.0, "padded_tokens": 12.0, "squared_lengths": 74.0, "rows": 3.0}
    found = []
    for adapter in (None, 10):
        clock = iter([0.0, 1.0, 1.0, 1.0])
        speed = Speed(
            SIZES, lora_parameters=adapter, world_size=1, peak=lambda: (1e4, True),
            clock=lambda clock=clock: next(clock),
        )  # fmt: skip
        found.append(speed.lap(sums)["mfu"])
    full, lora = found
    # Of the weights two units instead of three; of the adapter three of 2 * 12 * 10.
    assert (full - lora) * 1e4 == pytest.approx(2 * (12 * 160 + 3 * 40) - 6 * 12 * 10)


def test_the_bar() -> None:
    logs = {"loss": 1.23456, "tokens_per_second": 12345.6, "mfu": 0.414, "peak_memory_gib": 61.25}
    assert note_of(logs) == "loss 1.2346, 12,346 tok/s, MFU 41%, 61.2 GiB"
    assert note_of({"loss": 1.0}) == "loss 1.0000"  # ranks above 0 know no more


def test_a_warm_up_as_long_as_the_run_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_warmup(49, 50, learning_rate=2e-5)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_of_warmup(50, 40, learning_rate=2e-5)
    assert "warmup_steps is 50 and the run has 40 optimiser steps" in caplog.text
    assert "2e-05 is never reached" in caplog.text


def test_peak_memory_is_of_this_process() -> None:
    assert 20 * 2**20 < peak_memory(torch.device("cpu")) < 2**40
