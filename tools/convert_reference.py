"""Converts the reference models to the current format of checkpoints.

    python tools/convert_reference.py

Their trainings are not in the repository, so `tools/make_reference.py` would have to
repeat them. Whoever changes the format adapts this script and runs it once. The
parameters stay as they are.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.checkpoints.checksums import json_checksum
from rnnmnist.config.paths import REFERENCES
from rnnmnist.config.schema import Config

ROOT = Path(__file__).parent.parent
MOVED = ("data.placement", "model.precision", "model.remat_steps", "train.num_devices")
REMOVED = ("model.unroll", "train.eval_batch_size", "train.vectorize_seeds")


def main() -> None:
    """Rewrites the configuration of each model, and its checksum."""
    for reference in REFERENCES:
        (folder,) = (
            path for path in (ROOT / reference).iterdir() if path.name.isdigit()
        )
        config, sha256 = (folder / item / "metadata" for item in ("config", "sha256"))
        converted = convert(json.loads(config.read_text()))
        config.write_text(json.dumps(converted))
        checksums = json.loads(sha256.read_text())
        sha256.write_text(json.dumps(checksums | {"config": json_checksum(converted)}))


def convert(settings: dict[str, Any]) -> Any:
    """Returns the settings of a model with their current names."""
    execution = settings.setdefault("execution", {})
    for name in (*MOVED, *REMOVED):
        section, key = name.split(".")
        value = settings[section].pop(key)
        if name in MOVED:
            execution[key] = value
    return msgspec.to_builtins(Config.from_dict(settings))


if __name__ == "__main__":
    main()
