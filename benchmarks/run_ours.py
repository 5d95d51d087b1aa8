"""The rnnmnist worker, which calls the same functions as a run."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import worker

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import (
    RNN_CELLS,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
)
from rnnmnist.data.examples import Examples
from rnnmnist.data.image_datasets import image_task
from rnnmnist.data.placement import open_batches
from rnnmnist.evaluation.logit_metrics import compute_ensemble_metrics
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.runtime.devices import make_mesh
from rnnmnist.runtime.mesh import mesh_platform
from rnnmnist.training.loop import train_to
from rnnmnist.training.state import Program, create_state

DATA = DataConfig(name="mnist5k")  # needs no files


class Trainer:
    """The state of a run, and its training images."""

    def __init__(
        self,
        config: Config,
        rows: int = 28,
        columns: int = 28,
        execution: dict[str, Any] | None = None,  # overrides
        examples: int = 4000,
    ) -> None:
        self.task = dataclasses.replace(
            image_task(config.data),
            time_steps=rows,
            features=columns,
            image_shape=(rows, columns),
        )
        self.config = run = resolve(config, self.task)
        self.mesh = make_mesh(run.train.batch_size, None, run.num_seeds)
        resolved = Execution.create(run, mesh_platform(self.mesh))._replace(
            **execution or {}
        )
        self.program = Program.create(run, self.task, self.mesh, resolved)
        images, labels = worker.noise(examples, rows, columns)
        self.examples = Examples(images, labels=labels)
        opened = open_batches(self.examples, run, self.mesh)
        self._stack = contextlib.ExitStack()
        self.batches = self._stack.enter_context(opened)
        self.state: Any = create_state(run, self.program)
        self.step = 0

    def steps(self, count: int) -> int:
        """Trains for `count` steps, and returns the number of images."""
        target = self.step + count
        self.state, updates = train_to(
            self.state,
            self.step,
            target,
            config=self.config.train,
            program=self.program,
            batches=self.batches,
        )
        self.step = target
        return self.config.train.batch_size * updates["loss"].size

    def evaluate(self) -> int:
        """Evaluates all images, and returns their number."""
        logits = predict_logits(
            self.program.model,
            self.state.evaluated_params,
            self.examples,
            self.program.transform.view,
            self.mesh,
        )
        return compute_ensemble_metrics(logits, self.examples.labels).examples


def train(
    steps: int,
    batch: int = 128,
    seeds: int = 1,
    model: dict[str, Any] | None = None,
    flax_cell: bool = False,
    **settings: Any,
) -> None:
    """Serves training steps of the default run, counted in images."""
    if flax_cell:
        RNN_CELLS["lstm"] = "flax.linen:OptimizedLSTMCell"
    config = Config(
        num_seeds=seeds,
        data=DATA,
        model=ModelConfig(**(model or {})),
        train=TrainConfig(batch_size=batch),
    )
    trainer = Trainer(config, **settings)
    worker.serve(lambda: trainer.steps(steps))


def evaluate(images: int) -> None:
    """Serves evaluations, counted in images."""
    trainer = Trainer(Config(data=DATA), examples=images)
    worker.serve(trainer.evaluate)


def product_xla(size: int) -> None:
    """Serves XLA's matrix products."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size))
    multiply = jax.jit(jnp.matmul)
    worker.serve_products(lambda: multiply(left, right).block_until_ready(), size)


def product_numpy(size: int) -> None:
    """Serves NumPy's matrix products."""
    left, right = np.random.default_rng(0).random((2, size, size), np.float32)
    worker.serve_products(lambda: np.matmul(left, right), size)


if __name__ == "__main__":
    tasks = (train, evaluate, product_xla, product_numpy)
    worker.main({task.__name__: task for task in tasks})
