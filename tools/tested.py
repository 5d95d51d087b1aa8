"""Adds the installed versions to the tested ranges in rnnmnist/runtime/tested.tsv.

    python -m pytest && python -m pytest -m slow && python tools/tested.py

Run it after the whole test suite has passed.
"""

import platform
from pathlib import Path

from rnnmnist.runtime.versions import Range, compare, installed, read_tested

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
    """Returns the versions in this environment, Python's without the patch level."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: installed(name) for name in LIBRARIES} | {"python": python}


def widened(tested: Range, version: str) -> Range:
    """Returns the smallest range that also contains a version."""
    oldest = version if compare(version, tested.oldest) < 0 else tested.oldest
    newest = version if compare(version, tested.newest) > 0 else tested.newest
    return Range(oldest, newest)


def with_versions(
    tested: dict[str, Range], versions: dict[str, str]
) -> dict[str, Range]:
    """Widens each range to include a version; a new library starts its own range."""
    return {
        name: widened(tested.get(name, Range(version, version)), version)
        for name, version in sorted(versions.items())
    }


def main(path: Path) -> None:
    """Rewrites the file, sorted by name, and prints it."""
    tested = read_tested(path) if path.exists() else {}
    lines = [
        "\t".join([name, *ends]) + "\n"
        for name, ends in with_versions(tested, installed_versions()).items()
    ]
    path.write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "rnnmnist" / "runtime" / "tested.tsv")
