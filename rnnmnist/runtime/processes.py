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
        if self.num_processes is None or self.num_processes < 1:
            wrong = "num_processes"
        elif self.process_id is None or not 0 <= self.process_id < self.num_processes:
            wrong = "process_id"
        elif not (host_and_port and 0 < int(host_and_port[2]) < 2**16):
            wrong = "coordinator_address"
        else:
            return
        raise UserError(
            f"{wrong}: must not be {getattr(self, wrong)}; give coordinator_address, "
            "HOST:PORT of process 0, num_processes of at least 1, and process_id from "
            "0 to num_processes - 1"
        )
