"""Widens the tested versions by the ones that are installed here.

    python -m pytest && python -m pytest -m slow && python tools/tested.py

To be run where the whole suite has just passed. Rewrites `rnnmnist/tested.tsv`.
"""

import platform
from pathlib import Path

from rnnmnist.runtime.versions import Range, installed, read_tested, widened

LIBRARIES = (
    "array_record",
    "flax",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
)


def installed_versions() -> dict[str, str]:
    """The versions in this environment; Python's without the patch release."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: installed(name) for name in LIBRARIES} | {"python": python}


def with_versions(
    tested: dict[str, Range], versions: dict[str, str]
) -> dict[str, Range]:
    """Each range with a version more; a library that is new begins its own."""
    return {
        name: widened(tested.get(name, Range(version, version)), version)
        for name, version in sorted(versions.items())
    }


def main(path: Path) -> None:
    """Rewrites the file, sorted, and prints what it says now."""
    tested = read_tested(path) if path.exists() else {}
    lines = [
        "\t".join([name, *ends]) + "\n"
        for name, ends in with_versions(tested, installed_versions()).items()
    ]
    path.write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "rnnmnist" / "runtime" / "tested.tsv")
