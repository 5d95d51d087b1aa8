"""The lines that a training run prints."""

import time

import pytest
from support import TASK

from rnnmnist.config.schema import TrainConfig
from rnnmnist.runs.logs import Metrics
from rnnmnist.training.console import Progress


def test_the_time_left_is_that_of_the_steps_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a run that resumed from step 100; an epoch has 429.7 steps."""
    clock = iter([1000.0, 1030.0, 1040.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress(TrainConfig(num_steps=400), TASK, 100, verbose=True)
    scores = [0.51234], [96]
    progress.show(Metrics.create(200, "train", 128, [0], *scores, 12345.6))
    progress.show(Metrics.create(200, "validation", 128, [0], *scores))
    assert capsys.readouterr().out.splitlines() == [
        "epoch 0.5  step 200/400  loss 0.5123  accuracy 75.00 %  12,346 images/s  "
        "60 s left",
        "step 200  validation loss 0.5123  accuracy 75.00 % (96 of 128)",
    ]
    quiet = Progress(TrainConfig(num_steps=400), TASK, 100, verbose=False)
    quiet.show(Metrics.create(200, "validation", 128, [0], *scores))
    assert capsys.readouterr().out == ""
