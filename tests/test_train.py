"""The loop: its events, and what it reads from the devices."""

from pathlib import Path

import jax
import pytest
from support import mesh_of

from rnnmnist.config.schema import Config, TrainConfig
from rnnmnist.errors import UserError
from rnnmnist.runtime.mesh import make_mesh
from rnnmnist.training import loop
from rnnmnist.training.loop import is_due, next_event


def test_events_fall_on_absolute_steps_and_the_last_one_always() -> None:
    config = TrainConfig(num_steps=25, log_every_steps=4, eval_every_steps=10)
    step, events = 0, []
    while step < config.num_steps:
        step = next_event(step, config)
        events.append(step)
    assert events == [4, 8, 10, 12, 16, 20, 24, 25]
    assert [step for step in events if is_due(step, 10, 25)] == [10, 20, 25]
    # From anywhere in between, the rest of the events are the same.
    for start in range(25):
        assert next_event(start, config) == min(e for e in events if e > start)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts every copy of an array from a device to the host, hidden ones too."""
    counted: list[int] = []
    kind = type(jax.numpy.zeros(()))
    honest = kind._value.fget  # type: ignore[attr-defined]

    def value(array: jax.Array) -> object:
        counted.append(array.size)
        return honest(array)

    monkeypatch.setattr(kind, "_value", property(value))
    return counted


def test_the_host_reads_at_events_only(
    small: Config, tmp_path: Path, reads: list[int]
) -> None:
    """As many copies for 60 steps as for 6, where the events are as many."""
    counts = []
    for number, steps in enumerate((6, 6, 60)):  # the first compiles and prepares
        config = small.replace(
            {
                "data.max_shift": 0,
                "model.hidden_size": 8,
                # With a rate that depends on their number, each is another program.
                "train.schedule": "constant",
                "train.warmup_fraction": 0.0,
                "train.num_steps": steps,
                "train.log_every_steps": steps,
                "train.eval_every_steps": steps,
            }
        )
        reads.clear()
        loop.train(config, tmp_path / str(number))
        counts.append(len(reads))
    assert counts[1] == counts[2] > 0


def test_a_hidden_copy_from_the_host_is_an_error(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clumsy(run: loop.Run, state: object, *_: object) -> None:
        jax.numpy.add(run.split.seed, 1)  # a Python number, sent at every step

    monkeypatch.setattr(loop, "train_loop", clumsy)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.train(small, tmp_path / "run")


def test_the_mesh_of_a_batch() -> None:
    assert make_mesh(128, None, 1).size == 8
    assert make_mesh(12, None, 1).size == 6
    assert make_mesh(7, None, 1).size == 7
    assert make_mesh(11, None, 1).size == 1
    assert make_mesh(12, 3, 1).size == mesh_of(3).size


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "line"),
    [
        (12, 8, "must divide train.batch_size=12, and 8 does not; 6 does"),
        (7, 8, "must divide train.batch_size=7, and 8 does not; 7 does"),
        (128, 9, "must be at most 8, the cpu devices here, not 9"),
    ],
)
def test_a_batch_that_does_not_divide_is_one_line_with_what_does(
    batch_size: int, num_devices: int, line: str
) -> None:
    with pytest.raises(UserError, match=f"train.num_devices: {line}$"):
        make_mesh(batch_size, num_devices, 1)
