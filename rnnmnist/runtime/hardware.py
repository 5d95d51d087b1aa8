"""The devices of jax, and why it uses no accelerator."""

import collections
import logging
import os

from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.mesh import devices, make_mesh

_diagnosis: list[str] = []  # what jax says of accelerators that it does not use


def describe_devices(batch_size: int, num_devices: int | None, num_seeds: int) -> str:
    """Describes the devices of `make_mesh`, and why jax uses no accelerator."""
    # jax logs this when it looks for devices.
    logging.getLogger("jax._src.xla_bridge").addFilter(_keep)
    found = devices()
    mesh = make_mesh(batch_size, num_devices, num_seeds)
    first = found[0]
    kind = "" if first.device_kind == first.platform else f" {first.device_kind}"
    names = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    text = f"{mesh.size} of {len(found)} x {first.platform}{kind} ({names})"
    if mesh.size < len(found) and num_devices is None:
        seeds = f"{num_seeds} seeds and " if num_seeds > 1 else ""
        text += f", the most that can split {seeds}a batch of {batch_size}"
    return text if first.platform != "cpu" else f"{text}; {_describe_missing()}"


def require_platform(platform: str) -> None:
    """Checks that a run would use devices of a platform, `tpu` or `gpu`."""
    try:
        counts = collections.Counter(device.platform for device in devices())
    except UserError as error:
        found = str(error)
    else:
        if platform in counts:
            return
        names = ", ".join(f"{count} x {name}" for name, count in counts.items())
        found = f"the devices here are {names}"
    raise RunError(
        f"require: jax uses no {platform}: {found}; {_describe_missing()}; install "
        f"jax[{'cuda12' if platform == 'gpu' else platform}] on a machine with one (in "
        "Colab: Runtime, Change runtime type)"
    )


def _describe_missing() -> str:
    """Describes why jax uses no accelerator, in its own words."""
    platforms = os.environ.get("JAX_PLATFORMS")
    limited = [f"JAX_PLATFORMS={platforms} excludes others"] if platforms else []
    return "; ".join([*limited, *_diagnosis]) or "jax found no accelerator"


def _keep(record: logging.LogRecord) -> bool:
    """Keeps a log record of jax in one line, and shows it only if it is an error."""
    error = record.exc_info[1] if record.exc_info else None
    reason = f": {first_line(error)}" if error else ""
    _diagnosis.append(record.getMessage() + reason)
    return record.levelno >= logging.ERROR and error is None
