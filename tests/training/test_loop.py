"""The training loop: its events and its transfers between host and devices."""

import errno
from pathlib import Path

import jax
import pytest
from support import mesh_of

from rnnmnist.config.schema import Config, TrainConfig
from rnnmnist.data import datasets
from rnnmnist.errors import RunError, UserError
from rnnmnist.runtime.mesh import make_mesh
from rnnmnist.training import loop
from rnnmnist.training.loop import next_event


def test_events_fall_on_multiples_and_the_last_step() -> None:
    config = TrainConfig(num_steps=25, log_every_steps=4, eval_every_steps=10)
    step, events = 0, []
    while step < config.total_steps:
        step = next_event(step, config)
        events.append(step)
    assert events == [4, 8, 10, 12, 16, 20, 24, 25]
    # The events after a resume are the same.
    for start in range(25):
        assert next_event(start, config) == min(e for e in events if e > start)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each array copied from a device to the host."""
    sizes: list[int] = []
    kind = type(jax.numpy.zeros(()))
    original = kind._value.fget  # type: ignore[attr-defined]

    def value(array: jax.Array) -> object:
        sizes.append(array.size)
        return original(array)

    monkeypatch.setattr(kind, "_value", property(value))
    return sizes


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_the_host_reads_only_at_events(
    small: Config, tmp_path: Path, reads: list[int]
) -> None:
    """60 steps need as many copies as 6 with the same number of events."""
    counts = []
    for number, steps in enumerate((6, 6, 60)):  # the first one compiles
        config = small.replace(
            {
                "data.max_shift": 0,
                "model.hidden_size": 8,
                "execution.num_devices": 1,
                # A schedule that depends on num_steps would compile anew.
                "train.schedule": "constant",
                "train.warmup_fraction": 0.0,
                "train.num_steps": steps,
                "train.log_every_steps": steps,
                "train.eval_every_steps": steps,
            }
        )
        reads.clear()
        loop.train(config, datasets.load(config.data), tmp_path / str(number))
        counts.append(len(reads))
    assert counts[1] == counts[2] > 0


def test_an_implicit_transfer_from_the_host_is_an_error(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transfer(run: loop.Run, state: object, *_: object) -> None:
        chunk = run.batches.gather(0)
        jax.numpy.add(chunk.seed, 1)  # copies a Python number to the device

    monkeypatch.setattr(loop, "train_loop", transfer)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.train(small, datasets.load(small.data), tmp_path / "run")


def test_a_failed_read_or_write_names_the_path_and_the_last_checkpoint(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    (workdir / "config.json").mkdir(parents=True)
    with pytest.raises(RunError, match=r"config\.json: Is a directory; no checkpoint"):
        loop.train(small, datasets.load(small.data), workdir)

    def read(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/data/inputs.npy")

    monkeypatch.setattr(loop, "train_range", read)
    with pytest.raises(RunError, match=r"^/data/inputs\.npy: .*; no checkpoint"):
        loop.train(small, datasets.load(small.data), tmp_path / "other")


def test_the_mesh_size_divides_the_batch() -> None:
    assert make_mesh(128, None, 1).size == 8
    assert make_mesh(12, None, 1).size == 6
    assert make_mesh(7, None, 1).size == 7
    assert make_mesh(11, None, 1).size == 1
    assert make_mesh(12, 3, 1).size == mesh_of(3).size


@pytest.mark.parametrize(("batch_size", "num_devices"), [(12, 8), (7, 8), (128, 9)])
def test_an_indivisible_batch_is_refused(batch_size: int, num_devices: int) -> None:
    error = (
        rf"execution.num_devices: .*{batch_size}, .* at most 8 .* not {num_devices}$"
    )
    with pytest.raises(UserError, match=error):
        make_mesh(batch_size, num_devices, 1)
