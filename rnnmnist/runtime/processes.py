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
        address = self.coordinator_address or ""
        host_and_port = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5})", address)
        if (
            not (host_and_port and 0 < int(host_and_port[2]) < 2**16)
            or self.num_processes is None
            or self.process_id is None
            or not 0 <= self.process_id < self.num_processes
        ):
            raise UserError(
                "coordinator_address: must be HOST:PORT of process 0, with a "
                "num_processes of at least 1 and a process_id from 0 to num_processes "
                f"- 1, not {self.coordinator_address} with num_processes="
                f"{self.num_processes} and process_id={self.process_id}"
            )
