"""Reads and writes the result files in `results/`."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnmnist.runtime import machine

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "results"


def read_result(name: str) -> dict[str, Any]:
    """Reads a result file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def read_runs(name: str) -> dict[str, Any]:
    """Reads the runs in a result file, if it exists."""
    exists = (RESULTS / f"{name}.json").exists()
    runs: dict[str, Any] = read_result(name)["runs"] if exists else {}
    return runs


def write_result(
    name: str, command: str, content: Mapping[str, Any], hardware: str | None = None
) -> None:
    """Writes a result file, with the origin of the measurement.

    Args:
        name: the stem of the file.
        command: the command that measures the content.
        content: the measurements.
        hardware: None for all usable cores of this machine.
    """
    origin = {
        "command": command,
        "hardware": hardware or machine.describe_processor(),
        "date": datetime.date.today().isoformat(),
        "versions": machine.installed_versions(),
    }
    text = json.dumps(origin | dict(content), indent=1, allow_nan=False)
    (RESULTS / f"{name}.json").write_text(text + "\n")
