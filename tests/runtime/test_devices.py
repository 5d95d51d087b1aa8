"""The devices of a run, and their division over ensemble and batch."""

import json

import jax
import pytest
from support import output_of, run_python

from rnnmnist.errors import UserError
from rnnmnist.runtime import devices
from rnnmnist.runtime.devices import make_mesh

# In one process, whose CPU is split anew for each case.
SPLIT = """
import json, os, sys
import jax
from jax.extend.backend import clear_backends
from rnnmnist.runtime import devices

for cores, *arguments in json.loads(sys.argv[1]):
    clear_backends()
    jax.config.update("jax_num_cpu_devices", -1)
    os.environ.pop("NPROC", None)
    devices.usable_cores = lambda: cores
    shape = [*devices.make_mesh(*arguments).shape.values()]
    print(json.dumps([shape, jax.device_count(), os.environ.get("NPROC")]))
"""


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "num_seeds", "shape"),
    [
        (12, None, 1, (1, 6)),
        (128, None, 3, (3, 2)),
        (7, None, 11, (1, 7)),
        (128, 4, 2, (2, 2)),
    ],
)
def test_the_ensemble_is_sharded_before_the_batch(
    batch_size: int, num_devices: int | None, num_seeds: int, shape: tuple[int, int]
) -> None:
    found = make_mesh(batch_size, num_devices, num_seeds)
    assert tuple(found.shape.items()) == (("ensemble", shape[0]), ("batch", shape[1]))


@pytest.mark.parametrize(("batch_size", "num_devices"), [(12, 8), (128, 9)])
def test_an_impossible_number_of_devices_is_refused(
    batch_size: int, num_devices: int
) -> None:
    with pytest.raises(UserError, match=f"^execution.num_devices: is {num_devices}, "):
        make_mesh(batch_size, num_devices, 1)


def test_processes_with_different_numbers_of_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda index: [index])
    with pytest.raises(UserError, match="num_processes=2, "):
        make_mesh(49, None, 1)
    assert devices._mesh_shape(12, 1, 7, None) == (1, 6)
    assert devices._mesh_shape(9, 2, 5, None) == (2, 1)


@pytest.mark.slow
def test_the_cpu_is_split_before_jax_has_devices(environment: dict[str, str]) -> None:
    """NPROC is the number of threads of XLA, which is one higher for several seeds."""
    more = str(5) if jax.__version_info__ < (0, 11) else None
    # Usable cores and the arguments of `make_mesh`; shape, devices and NPROC.
    cases = [
        ((16, 128, None, 1), ([1, 8], 8, None)),
        ((4, 9, None, 1), ([1, 3], 4, None)),
        ((1, 128, 2, 1), ([1, 2], 2, None)),
        ((4, 128, 1, 1), ([1, 1], 1, None)),
        ((4, 128, None, 3), ([3, 1], 4, more)),
        ((2, 128, 4, 2), ([2, 2], 4, more)),
    ]
    given = json.dumps([case for case, _ in cases])
    printed = output_of(run_python("-c", SPLIT, given, environment=environment))
    found = [tuple(json.loads(line)) for line in printed.splitlines()]
    assert found == [expected for _, expected in cases]
