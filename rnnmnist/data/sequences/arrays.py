"""Reads .npz files, and folders of .npy files as memory maps, with NumPy."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.data.sequences.validation import check_memory, damage_refused
from rnnmnist.errors import UserError, did_you_mean, shown

NAMES = ("inputs", "labels", "lengths", "split", "feature_names")
OTHER_SIZE = "its header claims another size"


def read_npz(path: Path) -> dict[str, Any]:
    """Reads the arrays of a .npz file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([m.filename.removesuffix(".npy") for m in members], path)
        size = sum(member.file_size for member in members)
        folder = "save them as a folder of .npy files, which is read as a memory map"
        check_memory(size, f"{path}: the arrays", folder)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with damage_refused(f"{path}: {name}"), archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # at the end, zipfile compares the checksum
                    raise ValueError(OTHER_SIZE)
    return arrays


def read_folder(path: Path) -> dict[str, Any]:
    """Reads the arrays of a folder as read-only memory maps."""
    files = [file for file in sorted(path.glob("*.npy")) if file.is_file()]
    _check_names([file.stem for file in files], path)
    arrays: dict[str, Any] = {}
    for file in files:
        with damage_refused(str(file)):
            array: Any = np.load(file, mmap_mode="r", allow_pickle=False)
            if array.offset + array.nbytes != file.stat().st_size:
                raise ValueError(OTHER_SIZE)
            arrays[file.stem] = array
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
