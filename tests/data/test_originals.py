"""The original MNIST and Fashion-MNIST files, if they are available."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from support import REPOSITORY, Command

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.examples import SPLITS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_originals_are_prepared_completely(
    name: Literal["mnist", "fashion_mnist"], data_dir: Path, originals: Path
) -> None:
    folder = originals / name
    data = DataConfig(name=name, data_dir=str(data_dir), manual_dir=str(folder))
    examples = datasets.load(Config(data=data)).splits
    sizes = {split: len(examples[split].labels) for split in SPLITS}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    counts = np.bincount(examples["test"].labels)
    assert (counts > 800).tolist() == [True] * 10


def test_the_reference_model_has_the_published_accuracy(
    command: Command, data_dir: Path, originals: Path
) -> None:
    """The command runs as in a fresh clone."""
    finished = command(
        "evaluate",
        "--workdir=checkpoints/reference",
        f"--config.data.data_dir={data_dir}",
        f"--config.data.manual_dir={originals / 'mnist'}",
    )
    assert finished.returncode == 0, finished.stderr
    (path,) = (REPOSITORY / "checkpoints/reference/evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    published = json.loads((REPOSITORY / "results/reference.json").read_text())
    # Versions of jax round differently, which can change a prediction or two.
    assert abs(result["correct"] - published["correct"]) <= 2
