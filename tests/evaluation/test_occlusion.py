"""Occlusion: the attribution of a time step is the drop of the log-probability."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import random_examples, save_network, task_of

from rnnmnist import load
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.image_datasets import image_task
from rnnmnist.evaluation.network import Network
from rnnmnist.runs.records import Record


@pytest.mark.parametrize("view", ["columns", "permuted"])
def test_attributions_of_images_replace_pixels_by_the_background(
    view: Any, tmp_path: Path
) -> None:
    """A window of pixels is the pixels that its time steps read."""
    data = DataConfig(view=view)
    config = Config(data=data, model=ModelConfig("gru", hidden_size=4))
    task = image_task(data)
    workdir = save_network(tmp_path / "run", config, task)
    model = load(workdir)
    images = random_examples(2).stored
    whole = model.classify(images)
    order = Network(Record(workdir), "best").pixel_order
    assert order is not None
    times = np.empty((28, 28), int)
    for time, pixels in enumerate(order):
        times.flat[pixels] = time
    attributions = model.occlusion(images)
    width = attributions.shape[1] // 28
    for window in (0, 11):
        found = model.classify(np.where(times // width == window, 0, images))
        attribution = np.log(whole / found)[range(2), whole.argmax(1)]
        assert attribution == pytest.approx(attributions[:, window * width], abs=1e-5)


def test_attributions_of_sequences_replace_values_by_the_mean(tmp_path: Path) -> None:
    """Windows are within the length; attributions in the padding are 0."""
    task = dataclasses.replace(task_of(60, 2, 3), mean=(3.0, -1.0), std=(2.0, 0.25))
    config = Config(data=DataConfig(name="files"), model=ModelConfig(hidden_size=4))
    model = load(save_network(tmp_path / "run", config, task))
    inputs = np.random.default_rng(0).normal(3, 2, size=(3, 60, 2))
    lengths = np.array([60, 30, 7])
    whole = model.classify(inputs, lengths)
    attributions = model.occlusion(inputs, lengths)
    assert not attributions[np.arange(60) >= lengths[:, None]].any()
    for index, window in enumerate([slice(57, 60), slice(28, 30), slice(6, 7)]):
        occluded = inputs.copy()
        occluded[index, window] = task.mean
        found = model.classify(occluded, lengths)
        attribution = np.log(whole / found)[index, whole[index].argmax()]
        assert attributions[index, window] == pytest.approx(attribution, abs=1e-5)
