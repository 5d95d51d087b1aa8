"""Converts the shipped models to the current format of checkpoints.

    python tools/convert_reference.py

Whoever changes the format adapts this script and runs it once, since the trainings of
these models are not in the repository. The parameters stay as they are.
"""

import json
from pathlib import Path

from rnnmnist.config.files import REFERENCES
from rnnmnist.runs.checkpoints import FORMAT
from rnnmnist.runs.checksums import json_checksum


def main() -> None:
    """Converts the header of each model that has the format before the current one."""
    for reference in REFERENCES:
        folder = Path(__file__).parent.parent / reference
        (path,) = folder.glob("*/header/metadata")
        header = json.loads(path.read_text())
        if header["format"] == FORMAT:
            continue
        del header["sha256"]
        header["format"] = FORMAT
        header["task"]["time_steps"] = header["task"].pop("steps")
        path.write_text(json.dumps(header | {"sha256": json_checksum(header)}))


if __name__ == "__main__":
    main()
