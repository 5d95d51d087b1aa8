"""The progress of a run: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Self

from tqdm import tqdm

from rnnmnist.checkpoints.header import Metrics
from rnnmnist.evaluation.accuracies import percent


class _Bar(tqdm):  # type: ignore[type-arg]
    monitor_interval = 0  # no thread, which would outlive the bar


class Progress:
    """Shows the progress of a training run."""

    def __init__(
        self,
        step: int,
        num_steps: int,
        steps_per_epoch: float,
        noun: str,
        verbose: bool = True,
    ) -> None:
        """Starts the display of a run.

        Args:
            step: the number of finished steps.
            num_steps: of the whole run.
            steps_per_epoch: with which epochs are computed.
            noun: the word for several examples.
            verbose: whether anything is shown.
        """
        self._noun, self._verbose = noun, verbose
        self._first_step, self._num_steps = step, num_steps
        self._steps_per_epoch = steps_per_epoch
        self._started = time.monotonic()
        self._bar = (
            _Bar(
                total=num_steps,
                initial=step,
                unit=" steps",
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| {desc} [{remaining} left]",
            )
            if verbose and sys.stdout.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def training(self, metrics: Metrics) -> None:
        """Shows training metrics."""
        step = metrics.step
        text = (
            f"epoch {step / self._steps_per_epoch:.1f}  "
            f"step {step}/{self._num_steps}  loss {metrics.loss:.4f}  accuracy "
            f"{percent(metrics.accuracy)}  {metrics.examples_per_second:,.0f} "
            f"{self._noun}/s"
        )
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.n = step
            self._bar.refresh()
        elif self._verbose:
            print(f"{text}  {self._seconds_left(step):.0f} s left", flush=True)

    def line(self, text: str) -> None:
        """Shows a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._verbose:
            print(text, flush=True)

    def _seconds_left(self, step: int) -> float:
        done = max(1, step - self._first_step)
        return (time.monotonic() - self._started) / done * (self._num_steps - step)
