"""The text that a training run prints, and the lines of `metrics.jsonl`."""

import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.checkpoints import store
from rnnmnist.config.schema import Config
from rnnmnist.errors import RunError
from rnnmnist.evaluation import results
from rnnmnist.evaluation.formatting import percent
from rnnmnist.runtime.distributed import process_count
from rnnmnist.training.step import Metrics

NONFINITE_REMEDY = "lower train.learning_rate or set train.clip_norm"


def print_header(
    config: Config, workdir: Path, mesh: jax.sharding.Mesh, step: int
) -> None:
    """Prints the network, the data set, the devices, and the step to resume from."""
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seeds[0]} to {config.seeds[-1]}"
    devices = f"{mesh.size} {mesh.devices.flat[0].platform} device"
    devices += "s" if mesh.size > 1 else ""
    if process_count() > 1:
        devices += f" of {process_count()} processes"
    print(
        f"{config.model.cell} with {config.model.hidden_size} units on "
        f"{config.data.name}, {seeds}, {devices}, in {workdir}"
    )
    if step == config.train.num_steps:
        print(f"the run is complete at step {step}; nothing to train")
    elif step:
        print(f"resuming from step {step}")


def metrics_line(
    config: Config, losses: ArrayLike, correct: ArrayLike, examples: int
) -> dict[str, Any]:
    """Returns the metrics of one network, or of an ensemble and each of its networks.

    Args:
        config: of the run.
        losses: sums over images, [] or [seeds].
        correct: counts of correct predictions, [] or [seeds].
        examples: images per network.

    Returns:
        Means over images and networks, and the total of correct predictions. The
        accuracy is one division of integers, so that equal counts tie.
    """
    losses, correct = np.reshape(losses, -1), np.reshape(correct, -1)
    total = int(correct.sum())
    networks = [
        {
            "seed": seed,
            "loss": float(loss) / examples,
            "accuracy": int(count) / examples,
            "correct": int(count),
        }
        for seed, loss, count in zip(config.seeds, losses, correct, strict=True)
    ]
    line: dict[str, Any] = {
        "loss": statistics.fmean(network["loss"] for network in networks),
        "accuracy": total / (len(networks) * examples),
        "correct": total,
        "examples": examples,
    }
    if config.num_seeds > 1:
        line["members"] = networks
    return line


def describe_rejection(config: Config, metrics: Metrics) -> str:
    """Describes a rejected update from metrics on the host."""
    index = int(np.argmax(metrics.nonfinite))  # 0 for one network
    loss = np.reshape(metrics.rejected_loss, -1)[index]
    norm = np.reshape(metrics.rejected_norm, -1)[index]
    return (
        f"{config.seed_suffix(index)} was not applied: its loss is {loss} and its "
        f"gradient norm {norm}; one of them or an updated parameter is not finite"
    )


def describe_last_checkpoint(workdir: Path) -> str:
    """Describes the newest checkpoint of a workdir, for error messages."""
    steps = store.list_steps(workdir)
    return f"the last checkpoint is step {steps[-1]}" if steps else "no checkpoint yet"


def print_summary(
    config: Config, workdir: Path, result: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Prints the results of a complete run and the commands that read them.

    Args:
        config: of the run.
        workdir: of the run.
        result: content of the result file of the test split.
        seconds: by phase, from `PhaseTimer`.

    Raises:
        RunError: if the best checkpoint has no validation metrics.
    """
    best = result["step"]
    validation = store.read_metrics(workdir, best)
    if validation is None:
        raise RunError(f"step {best} in {workdir} was not validated")
    images = config.train.num_steps * config.train.batch_size
    flag = f"--workdir={shlex.quote(str(workdir))}"
    interpreter, folder = Path(sys.executable), Path.cwd()
    # A virtual environment below this folder need not be activated.
    inside = interpreter.is_relative_to(folder)
    python = interpreter.relative_to(folder) if inside else "python"
    print(
        f"\nparameters  {result['num_parameters']:,}\n"
        f"steps       {config.train.num_steps:,} ({images:,} images)\n"
        f"seconds     {seconds['total']:.1f} (data {seconds['data']:.1f}, compile "
        f"{seconds['compile']:.1f}, train {seconds['train']:.1f})\n"
        f"validation  {format_validation(validation)}, best at step {best}\n"
        f"test        {results.format_result(result)}\n"
        f"checkpoint  {workdir / str(best)}\n"
        f"evaluate    {python} -m rnnmnist.evaluate {flag}\n"
        f"report      {python} -m rnnmnist.report {flag}"
    )


def format_validation(metrics: dict[str, Any]) -> str:
    """Formats a checkpoint's validation metrics: accuracy and counts."""
    if "members" not in metrics:
        return results.format_accuracy(metrics["correct"], metrics["examples"])
    counts = ", ".join(str(network["correct"]) for network in metrics["members"])
    return (
        f"{percent(metrics['accuracy'])} in the mean of {len(metrics['members'])} "
        f"seeds ({counts} of {metrics['examples']})"
    )
