"""Converts the checkpoints of runs from format 3 to format 4.

    python tools/convert_checkpoints.py checkpoints/reference WORKDIR ...

A checkpoint of format 3 has the checksums of its arrays in its header, which are not
compared here, and those of a single seed have no ensemble axis.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp

from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.runs.checkpoint_files import seal
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import HEADER_FILE, list_steps


def main() -> None:
    """Parses the command line, and converts every step of each workdir."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=lambda text: Path(text).absolute())
    for workdir in parser.parse_args().workdirs:
        for step in list_steps(workdir):
            convert(workdir / str(step))


def convert(folder: Path) -> None:
    """Replaces a checkpoint of format 3; leaves one of format 4 as it is."""
    content = json.loads((folder / HEADER_FILE).read_bytes())
    if content["format"] != 3:
        return
    task = msgspec.convert(content["task"], Task)
    config = fill_defaults(Config.from_dict(content["config"]), task)
    metrics = content["metrics"]
    if metrics is not None:
        for member in metrics.get("members", ()):
            member["examples"] = metrics["examples"]
    arrays = {
        item: read(folder / item, add_axis=config.num_seeds == 1)
        for item in ("params", "state")
        if (folder / item).is_dir()
    }
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        with Checkpoints(Path(temporary), config, task) as checkpoints:
            checkpoints.save(
                int(folder.name), arrays, msgspec.convert(metrics, Metrics | None)
            )
        new = Path(temporary, folder.name)
        for path in new.rglob("commit_success.txt"):
            path.unlink()  # its only content is the path at which it was written
        seal(new)
        folder.rename(Path(temporary, "old"))
        new.rename(folder)


def read(item: Path, *, add_axis: bool) -> Any:
    """Reads a tree of arrays; adds the ensemble axis to all but the step."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(item)

    def convert_leaf(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        is_step = path[0].key == "step"
        return np.asarray(leaf)[None] if add_axis and not is_step else np.asarray(leaf)

    return jax.tree.map_with_path(convert_leaf, tree)


if __name__ == "__main__":
    main()
