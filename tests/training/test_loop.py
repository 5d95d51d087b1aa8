"""The training loop: a failed read, and the final evaluation."""

import errno
import json
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import (
    TASK,
    as_ensemble,
    make_metrics,
    mesh_of,
    model_of,
    random_examples,
    random_params,
    run_config,
)

from rnnmnist import load
from rnnmnist.config.resolving import RunConfig
from rnnmnist.data import datasets
from rnnmnist.data.examples import SPLITS, Dataset, Examples
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.records import Record, open_record
from rnnmnist.runtime.signals import stop_on_signal
from rnnmnist.training.resume import Run, create_mesh
from rnnmnist.training.run import train_and_evaluate


def train(config: RunConfig, workdir: Path) -> None:
    with open_record(workdir) as folder:
        run = Run(folder, config, datasets.load(config), create_mesh(config))
        train_and_evaluate(run, stop_on_signal())


def test_a_failed_read_on_the_host_stops_the_run_and_its_thread(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[threading.Thread]()
    take = Examples.take

    def fail(examples: Examples, positions: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return take(examples, positions)
        threads.add(threading.current_thread())
        raise OSError(errno.EIO, "Input/output error", "/data/inputs.npy")

    monkeypatch.setattr(Examples, "take", fail)
    config = small.replace({"execution.placement": "host"})
    with pytest.raises(OSError, match="/data/inputs"):
        train(config, tmp_path / "run")
    (thread,) = threads
    assert not thread.is_alive()


def test_the_trainer_evaluates_the_checkpoint_that_validation_selected(
    tmp_path: Path,
) -> None:
    config = run_config({"model.hidden_size": 4})
    params = as_ensemble(random_params(model_of(config.model)))
    for step, correct in ((1, 450), (2, 100)):
        metrics = make_metrics(step, "validation", 500, [correct], [1.0])
        header = Header(step=step, config=config, task=TASK, metrics=metrics)
        checkpoints.save(tmp_path, header, {"params": params})
        params = jax.tree.map(np.negative, params)
    dataset = Dataset(TASK, dict.fromkeys(SPLITS, random_examples(16)))
    folder = Record(tmp_path)
    run = Run(folder, config, dataset, mesh_of(1), completion="complete")
    train_and_evaluate(run, stop_on_signal())
    assert folder.step == 2
    (path,) = (tmp_path / "evaluation").iterdir()
    result = json.loads(path.read_text())
    assert (result["step"], result["split"], result["examples"]) == (1, "test", 16)
    assert result["params_sha256"] == load(tmp_path, 1).params_sha256
