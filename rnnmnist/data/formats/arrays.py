"""Reads .npz files and folders of .npy files. Nothing is ever unpickled.

The header of every array is read first and compared with the size of its file, so that
a damaged or hostile file is refused before memory is allocated for it.
"""

import contextlib
import copy
import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from rnnmnist.data.formats.raw import Raw, check_memory
from rnnmnist.errors import UserError, as_run_error, did_you_mean, first_line, shown

NAMES = ("inputs", "labels", "lengths", "split", "feature_names")
PREFIX = 10_012  # bytes that hold the longest header that NumPy accepts
CHUNK = 2**20  # bytes that are inflated at a time
DEFLATE_RATIO = 1032  # the highest compression that deflate reaches
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Header(NamedTuple):
    """The header of a .npy file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int  # of the data, in bytes

    @property
    def size(self) -> int:
        """The size in bytes that the whole file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path) -> Raw:
    """Reads a .npz file."""
    with _damage_refused(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([member.filename for member in members], path)
        headers = [_member_header(archive, member, path) for member in members]
        check_memory(
            sum(member.file_size for member in members),
            f"{path}: the arrays",
            "save them as a folder of .npy files, which is read as a memory map",
        )
        return _raw(
            {
                member.filename: _read_member(archive, member, header, path)
                for member, header in zip(members, headers, strict=True)
            }
        )


def read_folder(path: Path) -> Raw:
    """Reads a folder of .npy files: `inputs` as a read-only memory map."""
    found = (file for file in path.iterdir() if file.suffix == ".npy")
    files = sorted(file for file in found if file.is_file())
    _check_names([file.name for file in files], path)
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        with _damage_refused(file), file.open("rb") as stream:
            header = _parse_header(stream.read(PREFIX), file.stat().st_size, file)
            if file.stem == "inputs":
                arrays[file.name] = np.memmap(
                    file,
                    header.dtype,
                    mode="r",
                    offset=header.offset,
                    shape=header.shape,
                    order=header.order,
                )
            else:
                check_memory(header.size, f"{file}: the elements", "store fewer")
                arrays[file.name] = _array(header, bytearray(file.read_bytes()))
    return _raw(arrays)


def _raw(arrays: dict[str, np.ndarray]) -> Raw:
    return Raw(
        arrays["inputs.npy"],
        labels=arrays.get("labels.npy"),
        lengths=arrays.get("lengths.npy"),
        splits=arrays.get("split.npy"),
        feature_names=arrays.get("feature_names.npy"),
    )


@contextlib.contextmanager
def _damage_refused(source: Path | str) -> Iterator[None]:
    """Turns what NumPy and zipfile raise for damaged files into a `UserError`."""
    try:
        yield
    except Exception as error:  # they raise many types
        if as_run_error(error):
            raise
        raise UserError(
            f"{source}: cannot be read ({first_line(error)}); save the arrays again"
        ) from error


def _check_names(files: list[str], path: Path) -> None:
    allowed = [f"{name}.npy" for name in NAMES]
    for index, file in enumerate(files):
        if file not in allowed:
            remedy = did_you_mean(file, allowed, f"allowed are {', '.join(allowed)}")
            raise UserError(f"{path}: contains {shown(file)}; {remedy}")
        if file in files[:index]:
            raise UserError(f"{path}: contains {file} twice; save the arrays again")
    if "inputs.npy" not in files:
        raise UserError(
            f"{path}: contains no inputs.npy; name the sequences [examples, time, "
            "features] 'inputs'"
        )


def _member_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path
) -> Header:
    where = f"{path}: {member.filename}"
    if member.compress_type not in METHODS:
        raise UserError(
            f"{where} has compression method {member.compress_type}; save the arrays "
            "with numpy.savez or numpy.savez_compressed"
        )
    compressed = min(member.compress_size, path.stat().st_size)
    if member.file_size > DEFLATE_RATIO * compressed + 1024:
        raise UserError(
            f"{where} claims {member.file_size} bytes, more than {compressed} "
            "compressed bytes can hold; save the arrays again"
        )
    with _damage_refused(where), archive.open(member) as stream:
        return _parse_header(stream.read(PREFIX), member.file_size, where)


def _parse_header(prefix: bytes, size: int, where: Path | str) -> Header:
    """Parses a header, and checks it against the size in bytes of the whole file."""
    stream = io.BytesIO(prefix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of Python's parser, and of old type names
        version = npy.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran_order, dtype = npy.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version} of the header")
    numeric = dtype.kind in "biuf" and dtype.itemsize <= 8
    if not numeric and (dtype.kind != "U" or not dtype.itemsize):
        raise UserError(
            f"{where}: has the type {shown(str(dtype))}; convert it with "
            ".astype(float), .astype(int) or .astype(str) (Python objects are never "
            "unpickled)"
        )
    if min(shape, default=1) < 1:
        raise UserError(f"{where}: has the shape {shape}; store at least one element")
    header = Header(dtype, shape, "F" if fortran_order else "C", stream.tell())
    if header.size != size:
        raise UserError(
            f"{where}: has {size} bytes, but {header.size} by its header ({dtype} "
            f"{shape}); save the arrays again"
        )
    return header


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, path: Path
) -> np.ndarray:
    # One byte more, or zipfile would silently cut a member that inflates to more.
    longer = copy.copy(member)
    longer.file_size += 1
    content = bytearray(longer.file_size)
    size = 0
    where = f"{path}: {member.filename}"
    with _damage_refused(where), archive.open(longer) as stream:
        while chunk := stream.read(CHUNK):
            content[size : size + len(chunk)] = chunk
            size += len(chunk)
        if size != member.file_size:
            raise UserError(
                f"{where}: does not have the {member.file_size} bytes that it claims; "
                "save the arrays again"
            )
        return _array(header, content)


def _array(header: Header, content: bytearray) -> np.ndarray:
    """Returns the array of a file's content, without a copy."""
    count = math.prod(header.shape)
    array = np.frombuffer(content, header.dtype, count, header.offset)
    return array.reshape(header.shape, order=header.order)
