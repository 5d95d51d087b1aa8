"""Converts the shipped models to the current format of checkpoints.

    python tools/convert_reference.py

Whoever changes the format adapts this script and runs it once, since the trainings of
these models are not in the repository. The parameters stay as they are.
"""

import json
from pathlib import Path
from typing import Any

import jax
import make_reference
import msgspec
import orbax.checkpoint as ocp

from rnnmnist.checkpoints.checksums import array_checksums
from rnnmnist.checkpoints.header import Metrics
from rnnmnist.config.paths import REFERENCES
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task

MOVED = ("data.placement", "model.precision", "model.remat_steps", "train.num_devices")
REMOVED = ("model.unroll", "train.eval_batch_size", "train.vectorize_seeds")


def main() -> None:
    """Converts the checkpoint of each model that has items instead of a header."""
    for reference in REFERENCES:
        target = Path(__file__).parent.parent / reference
        (folder,) = (path for path in target.iterdir() if path.name.isdigit())
        if (folder / "header").is_dir():
            continue
        config, task, sha256 = (
            json.loads((folder / item / "metadata").read_text())
            for item in ("config", "task", "sha256")
        )
        found: Any = json.loads((folder / "metrics/metrics").read_text())
        params = ocp.StandardCheckpointer().restore(folder / "params")
        assert array_checksums(params) == sha256["params"]
        make_reference.write(
            target,
            int(folder.name),
            jax.device_get(params),
            convert(config),
            msgspec.convert(task, Task),
            msgspec.convert(found, Metrics),
        )


def convert(settings: dict[str, Any]) -> Config:
    """Returns the configuration of a model from settings with their former names."""
    settings["execution"] = {}
    for name in (*MOVED, *REMOVED):
        section, key = name.split(".")
        value = settings[section].pop(key)
        if name in MOVED:
            settings["execution"][key] = value
    return Config.from_dict(settings)


if __name__ == "__main__":
    main()
