"""The house rules that a machine can hold."""

import ast
from pathlib import Path

import pytest
from support import REPOSITORY

# Imports run downwards only: a room sees the floors below its own.
FLOORS = [
    {"errors", "settings", "config", "streams", "palette", "recurrence"}
    | {"imagefiles", "handwriting", "likeness"},
    {"versions", "flags", "mesh", "model", "data", "datasets", "checkpoint"}
    | {"digests", "workdir", "compilation", "processes", "progress", "signals"}
    | {"notebook", "figures", "webpage", "intervals"}
    | {"augmentation", "optimizer"},
    {"batches", "objective", "steps", "machine", "tracing", "networks"},
    {"step", "sessions"},
    {"evaluation", "verification", "answers", "findings", "reader"},
    {
        "train",
        "resume",
        "checkup",
        "reporting",
        "sections",
        "comparison",
        "bars",
        "film",
    },
    {"main", "evaluate", "verify", "doctor", "report", "predict", "page"}
    | {"__init__"},
]
# On one floor, but in this order.
NEIGHBOURS = {
    ("settings", "errors"),
    ("imagefiles", "errors"),
    ("handwriting", "imagefiles"),
    ("config", "errors"),
    ("config", "settings"),
    ("data", "datasets"),
    ("datasets", "datasets"),
    ("checkpoint", "digests"),
    ("checkpoint", "mesh"),
    ("checkpoint", "processes"),
    ("notebook", "workdir"),
    ("notebook", "figures"),
    ("findings", "answers"),
    ("findings", "evaluation"),
    ("reporting", "sections"),
    ("comparison", "reporting"),
    ("comparison", "sections"),
    ("processes", "flags"),
    ("train", "resume"),
    ("checkup", "resume"),
}
ONLY_IMPORTERS = {
    "orbax": {"checkpoint"},
    "tensorflow_datasets": {"datasets"},
    "tensorflow": set(),
    "tqdm": {"progress"},
    "IPython": {"notebook"},
    "matplotlib": {"figures"},
    "PIL": {"imagefiles"},
    "optax": {"step", "objective", "optimizer"},
}
PACKAGE = REPOSITORY / "rnnmnist"
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    (floor,) = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    return floor


def imports(path: Path) -> set[str]:
    """Every module that a file imports, `from rnnmnist import x` as `rnnmnist.x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
            if node.module == "rnnmnist":
                found |= {f"rnnmnist.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_downwards(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "rnnmnist" and rest:
            other = rest.split(".")[0]
            below = floor_of(other) < floor_of(room)
            assert below or (room, other) in NEIGHBOURS, f"{room} imports {other}"
        if top in ONLY_IMPORTERS:
            assert room in ONLY_IMPORTERS[top], f"{room} imports {top}"
        assert not name.startswith("flax.nnx")


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES}
    assert rooms == set().union(*FLOORS)


def functions() -> list[tuple[str, ast.FunctionDef]]:
    folders = ("rnnmnist", "configs", "tools", "benchmarks", "tests")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    return [
        (f"{path.relative_to(REPOSITORY)}:{node.name}", node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_a_function_fits_on_a_screen() -> None:
    lengths = {
        name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()
    }
    assert len(lengths) > 100
    assert {name for name, length in lengths.items() if length > 60} == set()


def test_no_assert_minds_a_user() -> None:
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not any(isinstance(node, ast.Assert) for node in nodes), path
