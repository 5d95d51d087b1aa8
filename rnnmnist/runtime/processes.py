"""The processes of a run. Importing this module does not import jax."""

import dataclasses
import re

from rnnmnist.errors import UserError


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """The coordinates of this process in a run; all None if jax detects them."""

    coordinator_address: str | None = None  # "HOST:PORT" of process 0
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator_address, self.num_processes, self.process_id)
        if given in ((None, None, None), (None, 1, None), (None, 1, 0)):
            return
        if self.num_processes is None or self.num_processes < 1:
            raise UserError(
                "num_processes: must be at least 1, together with "
                f"coordinator_address and process_id, not {self.num_processes}"
            )
        if self.process_id is None or not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"process_id: must be from 0 to {self.num_processes - 1}, below "
                f"num_processes, not {self.process_id}"
            )
        if not _is_host_and_port(self.coordinator_address or ""):
            raise UserError(
                "coordinator_address: must be HOST:PORT of process 0, not "
                f"{self.coordinator_address}"
            )


def _is_host_and_port(address: str) -> bool:
    """Whether an address is `HOST:PORT`, with brackets around an IPv6 host."""
    host, _, port = address.rpartition(":")
    valid_host = re.fullmatch(r"\[[^\[\]]+\]|[^:\[\]]+", host)
    return bool(valid_host) and port.isdecimal() and 0 < int(port) < 2**16
