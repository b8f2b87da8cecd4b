import os
import signal
import threading

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tabom.training.preempt import Preemption, StopCallback


@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_is_not(
    one: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    before = signal.signal(one, lambda number, frame: seen.append(number))
    try:
        with Preemption() as preemption:
            assert not preemption.is_asked
            os.kill(os.getpid(), one)
            assert preemption.is_asked
            assert preemption.asked_by == one
            assert not seen
            os.kill(os.getpid(), one)
            assert seen == [one]
        os.kill(os.getpid(), one)
        assert len(seen) == 2
        with Preemption() as preemption:
            pass
        os.kill(os.getpid(), one)
        assert len(seen) == 3
        assert not preemption.is_asked
    finally:
        signal.signal(one, before)
    assert len(caplog.messages) == 1
    assert one.name in caplog.text


def test_another_thread_may_train_too() -> None:
    before, errors = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        try:
            with Preemption():
                assert signal.getsignal(signal.SIGTERM) == before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.parametrize(("asked", "step", "stops"), [(False, 3, False), (True, 3, True),
                                                     (True, 4, False)])  # fmt: skip
def test_a_stop_saves_and_does_not_evaluate(
    asked: bool, step: int, stops: bool, tmp_path: object
) -> None:
    """At the last step there is nothing left to stop."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    callback, control = StopCallback(lambda: asked), TrainerControl(should_evaluate=True)
    state = TrainerState(global_step=step, max_steps=4)
    callback.on_step_end(arguments, state, control)
    assert callback.is_stopped == control.should_save == control.should_training_stop == stops
    assert not control.should_log  # a line of its own would cut the next one's means short
    assert control.should_evaluate != stops
    control.should_save = control.should_evaluate = True  # as an epoch's end asks
    callback.on_epoch_end(arguments, state, control)
    assert control.should_save == control.should_evaluate == (not stops)
