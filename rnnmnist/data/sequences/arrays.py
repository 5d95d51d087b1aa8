"""Reads .npz files, and folders of .npy files as memory maps, with NumPy."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.data.sequences.validation import check_memory, damage_refused
from rnnmnist.errors import UserError, did_you_mean, shown

NAMES = ("inputs", "labels", "lengths", "split", "feature_names")


def read_npz(path: Path) -> dict[str, Any]:
    """Reads the arrays of a .npz file."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    folder = "save them as a folder of .npy files, which is read as a memory map"
    check_memory(size, f"{path}: the arrays", folder)
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        _check_names(file.files, path)
        for name in file.files:
            with damage_refused(f"{path}: {name}"):
                arrays[name] = file[name]
    return arrays


def read_folder(path: Path) -> dict[str, Any]:
    """Reads the arrays of a folder, whose inputs are a read-only memory map."""
    names = [file.stem for file in sorted(path.glob("*.npy"))]
    _check_names(names, path)
    arrays = {}
    for name in names:
        file = path / f"{name}.npy"
        with damage_refused(str(file)):
            arrays[name] = np.load(file, mmap_mode="r" if name == "inputs" else None)
    return arrays


def _check_names(names: list[str], path: Path) -> None:
    for name in names:
        if name not in NAMES:
            remedy = did_you_mean(name, NAMES, f"allowed are {', '.join(NAMES)}")
            raise UserError(f"{path}: contains the array {shown(name)}; {remedy}")
        if names.count(name) > 1:
            raise UserError(f"{path}: contains {name} twice; save the arrays again")
    if "inputs" not in names:
        raise UserError(f"{path}: contains no inputs; name the sequences 'inputs'")
