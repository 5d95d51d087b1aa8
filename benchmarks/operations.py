"""Profiles an update by operation: `operations.py --config=default --shape 150 1`."""

import argparse
import collections
import math
import os
import re
import tempfile
import timeit
from pathlib import Path

TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)  # for compiled programs and profiles
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # cached programs are not dumped
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
FLAGS = f" --xla_dump_to={FOLDER} --xla_dump_hlo_as_text"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS
import jax  # noqa: E402
import run_ours  # noqa: E402

from rnnmnist.commands.train import parse  # noqa: E402
from rnnmnist.config.recipes import choose_config  # noqa: E402
from rnnmnist.runtime.machine import describe_processor  # noqa: E402


def read_products(module: str) -> dict[str, float]:
    """Returns the floating-point operations of the matrix product per instruction."""
    sizes, flops, computation = dict[str, int](), dict[str, float](), ""
    (path,) = FOLDER.glob(f"*.jit_{module}.cpu_after_optimizations.txt")
    for line in path.read_text().splitlines():
        if line.startswith("%"):
            computation = line[1:].split()[0]
        elif match := re.match(r" +(?:ROOT )?%(\S+) = (.*?) ([\w-]+)\((.*)", line):
            name, result, kind, rest = match.groups()
            for index, shape in enumerate(re.findall(r"\[([\d,]*)\]", result)):
                size = math.prod(map(int, re.findall(r"\d+", shape)))
                sizes[name] = sizes[f"{name}#{index}"] = size  # an element of a tuple
            names = re.findall(r"%([^\s,)]+)", rest)  # operands and callees
            if kind == "dot":  # of [m, k] and [k, n]
                flop = 2 * math.sqrt(sizes[names[0]] * sizes[names[1]] * sizes[name])
                flops[name] = flops[computation] = flop
            elif kind not in ("while", "call"):  # contain other instructions
                flops[name] = flops.get(names[-1], 0) if kind == "fusion" else 0
    return flops


def main() -> None:
    """Parses the command line, profiles, and prints the ten slowest operations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluate", action="store_true", help="not an update")
    parser.add_argument("--shape", type=int, nargs=2, default=(28, 28))
    args, settings = parser.parse_known_args()
    config, _ = choose_config(parse(settings).request)
    config = config.replace({"data.name": "mnist5k"})
    trainer = run_ours.Trainer(config, *args.shape)
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    for name, calls in (("compiling", 1), ("profile", 20)):
        with jax.profiler.trace(str(FOLDER / name), profiler_options=options):
            for _ in range(calls):
                trainer.evaluate() if args.evaluate else trainer.steps(1)
    products = read_products("predict_batch" if args.evaluate else "train_chunk")
    times, flop = collections.Counter[str](), 0.0
    (path,) = FOLDER.glob("profile/**/*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for event in (event for line in plane.lines for event in line.events):
            if (product := products.get(event.name)) is not None:
                kind = "products" if product else re.sub(r"[.\d]+$", "", event.name)
                times[kind] += event.duration_ns / 1e3 / calls
                flop += product / 1e3 / calls
    matrix = jax.random.normal(jax.random.key(0), (1024, 1024))
    seconds = timeit.repeat(lambda: (matrix @ matrix).block_until_ready(), number=1)
    speeds = f"{flop / times['products']:.0f} of {2e-9 * 1024**3 / min(seconds):.0f}"
    print(f"{describe_processor()}, jax {jax.__version__}, {speeds} GFLOP/s")
    for kind, time in [("all operations", times.total()), *times.most_common(10)]:
        print(f"{time / times.total():6.1%} {time:10,.0f} us  {kind}")


if __name__ == "__main__":
    main()
