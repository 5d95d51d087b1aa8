"""All programs of a run compile for TPUs and GPUs, on a machine without them.

The compilers are installed by `tox run -e tpu`, `cuda` and `colab-tpu`. The tests find
compilation errors, and check the communication between devices. Nothing is executed.
"""

import math
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from rnnmnist.commands.train import parse
from rnnmnist.config.recipes import choose_config
from rnnmnist.config.resolving import resolve
from rnnmnist.data.batches import (
    BATCHES_SPEC,
    Batch,
    Chunk,
    gather_examples,
)
from rnnmnist.data.image_datasets import image_task
from rnnmnist.data.placement import updates_for_chunk
from rnnmnist.evaluation.predictions import predict_batch
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE, replicate
from rnnmnist.training.state import (
    Program,
    abstract_state,
    init_state,
)
from rnnmnist.training.step import train_chunk

# The distribution that contains the compiler of each target.
COMPILERS = {"TPU v5e": "libtpu", "H100": "jax-cuda12-plugin"}
# The environment of the TPU compiler, without which it looks for a TPU and lets only
# one process load it.
TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# XLA's GpuTargetConfigProto: what the compiler has to know of a GPU.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# The configuration and the settings of each run.
RUNS = {
    "default": "default",
    "eight seeds": "default num_seeds=8",
    "augmented": "best",
    "gru in both directions": "default model.cell=gru model.bidirectional=true",
    "two layers with dropout": "default model.num_layers=2 model.dropout=0.2",
    "lru": "default model.cell=lru model.pooling=mean",
}
# Instructions that send something to other devices, and the operations of jax that they
# belong to, such as `jit(train_chunk)/shard_map/while/body/psum`.
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r'(?:-start)?\(.*op_name="([^"]*)"'
)
# Instructions that read from or write to the host, whose memory is S(5).
TRANSFER = re.compile(r" (infeed|outfeed|send|recv)\(|S\(5\)|callback")
IMAGE = (28, 28)


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    """Disables the compilation cache, which cannot write programs without a device."""
    name = "jax_enable_compilation_cache"
    before = jax.config.values[name]
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


def find_devices(target: str) -> list[Any]:
    """Returns devices of a target for compilation only; skips without its compiler."""
    try:
        version(COMPILERS[target])
    except PackageNotFoundError:
        pytest.skip(f"the compiler is not installed: {COMPILERS[target]}")
    if target == "H100":
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology="1x1x1", target_config=H100
        )
    else:
        os.environ.update(TPU)
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return list(topology.devices)


def sharded(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """Adds shardings to abstract arrays; each spec applies to a whole subtree."""

    def add(spec: jax.P, subtree: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: leaf.update(sharding=sharding), subtree)

    return jax.tree.map(add, specs, tree, is_leaf=lambda node: isinstance(node, jax.P))


def compile_programs(settings: str, devices: list[Any]) -> dict[str, Any]:
    """Compiles the programs of a run on MNIST for abstract arrays.

    Checks the shardings of the training state, the batches and the logits.
    """
    name, *overrides = settings.split()
    flags = [f"--config.{override}" for override in overrides]
    given, _ = choose_config(parse([f"--config={name}", *flags]).request)
    task = image_task(given.data)
    config = resolve(given, task)
    grid = math.gcd(len(devices), config.num_seeds), -1  # seeds first
    axis_types = (AxisType.Auto,) * 2
    mesh = Mesh(
        np.array(devices).reshape(grid), (ENSEMBLE, BATCH), axis_types=axis_types
    )
    program = Program.create(config, task, mesh)

    def array(shape: tuple[int, ...], dtype: Any, spec: jax.P) -> Any:
        return sharded(jax.ShapeDtypeStruct(shape, dtype), spec, mesh)

    def examples(shape: tuple[int, ...], spec: jax.P) -> Batch:
        images = array((*shape, math.prod(IMAGE)), jnp.uint8, spec)
        labels = array(shape, jnp.int32, spec)
        return Batch(inputs=images, labels=labels, lengths=None, weights=None)

    seeds = array((config.num_seeds,), jnp.uint32, jax.P(ENSEMBLE))
    number = array((), jnp.int32, jax.P())
    state = sharded(abstract_state(config, program), jax.P(ENSEMBLE), mesh)
    batch_size = config.train.batch_size
    updates = updates_for_chunk(math.prod(IMAGE) * config.num_seeds * batch_size)
    batches = examples((config.num_seeds, updates, batch_size), BATCHES_SPEC)
    size = program.model.execution.eval_batch_size * mesh.shape[BATCH]
    images = array((size, *IMAGE), jnp.uint8, jax.P(BATCH))
    lowered = {
        "init_state": init_state.lower(seeds, program=program),
        "gather_examples": gather_examples.lower(
            examples((task.examples["train"],), jax.P()),
            seeds,
            number,
            num_updates=updates,
            batch_size=batch_size,
            sharding=NamedSharding(mesh, BATCHES_SPEC),
        ),
        "train_chunk": train_chunk.lower(
            state,
            Chunk(batches=batches, seeds=seeds, start=number),
            array((updates,), jnp.float32, jax.P()),
            number,
            number,
            program=program,
        ),
        "predict_batch": predict_batch.lower(
            state.evaluated_params,
            images,
            None,
            model=program.model,
            view=program.transform.view,
            mesh=mesh,
            every_step=False,
        ),
        "replicate": replicate.lower(state._asdict(), mesh=mesh),
    }
    compiled = {name: program.compile() for name, program in lowered.items()}
    assert_sharded(compiled["init_state"].output_shardings, state)
    assert_sharded(compiled["gather_examples"].output_shardings, batches)
    assert_sharded(compiled["train_chunk"].output_shardings[0], state)
    (logits,) = jax.tree.leaves(compiled["predict_batch"].output_shardings)
    assert logits.is_fully_replicated
    return compiled


def assert_sharded(shardings: Any, arrays: Any) -> None:
    """Asserts that a program's outputs have the shardings of abstract arrays."""
    for found, leaf in zip(
        jax.tree.leaves(shardings), jax.tree.leaves(arrays), strict=True
    ):
        assert found.is_equivalent_to(leaf.sharding, leaf.ndim)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "count", "run"),
    [
        ("TPU v5e", 4, "default"),
        ("TPU v5e", 1, "lru"),
        *(("H100", 1, run) for run in RUNS),
        *(
            pytest.param("TPU v5e", *case, marks=pytest.mark.exhaustive)
            for case in [
                (1, "default"),
                (1, "augmented"),
                (4, "augmented"),
                (1, "gru in both directions"),
                (4, "gru in both directions"),
                (4, "two layers with dropout"),
                (4, "lru"),
                (1, "eight seeds"),
                (4, "eight seeds"),
            ]
        ),
    ],
)
def test_all_programs_compile(target: str, count: int, run: str) -> None:
    devices = find_devices(target)[:count]
    programs = compile_programs(RUNS[run], devices)
    in_loops = {}
    for name, program in programs.items():
        text = program.as_text()
        assert not TRANSFER.search(text), name
        collectives = COLLECTIVE.findall(text)
        in_loops[name] = [
            (opcode, path.count("/while/body"))
            for opcode, path in collectives
            if "/while/body" in path
        ]
    # In the loop of updates, the gradients of shards, unless each device has networks
    # of its own. There is nothing in its loops over time.
    per_update = in_loops.pop("train_chunk")
    is_sharded = count > 1 and run != "eight seeds"
    assert per_update == ([("all-reduce", 1)] if is_sharded else [])
    assert not any(in_loops.values())
