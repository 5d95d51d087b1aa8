"""Hides the user's environment from tests and from the processes that they start.

The home folder is empty and temporary, and connections to other machines fail. This
module is imported before the libraries, some of which read variables on import.
"""

import os
import re
import signal
import tempfile
from pathlib import Path

import connections

KEPT = ("RNNMNIST_ORIGINALS",)
# pip keeps the user's cache and configuration, which saves downloads.
PIP_PATHS = {"PIP_CACHE_DIR": ".cache/pip", "PIP_CONFIG_FILE": ".config/pip/pip.conf"}
# Variables of the package, its libraries, launchers of several processes and proxies.
HIDDEN = re.compile(
    "(ABSL|EPATH|FLAX|JAX|LIBTPU|OMP|OPTAX|ORBAX|PJRT|RNNMNIST|SCIPY|SKLEARN|TENSORSTORE"
    "|TF|TFDS|TPU|XDG|XLA)_|JOBSET|JOB_COMPLETION_|KUBERNETES_|MATPLOTLIB|MPL|OMPI_"
    "|SLURM_|IPYTHON|JUPYTER|VIRTUAL_ENV|NPROC$|.*_proxy$",
    re.IGNORECASE,
)

if __name__ == "isolation":  # not if pytest collects doctests
    for name in list(os.environ):
        if HIDDEN.match(name) and name not in KEPT:
            del os.environ[name]
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the variables
        for name, path in PIP_PATHS.items():
            os.environ.setdefault(name, str(Path.home() / path))
        # The folder is removed when this process ends.
        home = tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True)
        os.environ["HOME"] = home.name
        paths = [str(Path(connections.__file__).parent), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # A shell starts `COMMAND &` with SIGINT ignored, and child processes inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
