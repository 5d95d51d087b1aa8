"""Hides the user's environment from the tests and from what they start.

The home folder is an empty, temporary one, and there are no connections to other
machines. Imported before the libraries, since some read their variables at the import.
"""

import os
import re
import signal
import tempfile
from pathlib import Path

import connections

KEPT = ("RNNMNIST_ORIGINALS",)
# What pip finds in the user's home folder, which saves downloads.
OF_PIP = {"PIP_CACHE_DIR": ".cache/pip", "PIP_CONFIG_FILE": ".config/pip/pip.conf"}
# Of the package, its libraries, launchers of several processes, and proxies.
READ = re.compile(
    "(ABSL|EPATH|FLAX|JAX|LIBTPU|OMP|OPTAX|ORBAX|PJRT|RNNMNIST|SCIPY|SKLEARN|TENSORSTORE"
    "|TF|TFDS|TPU|XDG|XLA)_|JOBSET|JOB_COMPLETION_|KUBERNETES_|MATPLOTLIB|MPL|OMPI_"
    "|SLURM_|IPYTHON|JUPYTER|VIRTUAL_ENV|NPROC$|.*_proxy$",
    re.IGNORECASE,
)

if __name__ == "isolation":  # not if pytest collects doctests
    for name in list(os.environ):
        if READ.match(name) and name not in KEPT:
            del os.environ[name]
    if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker inherits what is set here
        for name, path in OF_PIP.items():
            os.environ.setdefault(name, str(Path.home() / path))
        # It is removed when this process ends.
        home = tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True)
        os.environ["HOME"] = home.name
        paths = [str(Path(connections.__file__).parent), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # A shell starts `COMMAND &` with interrupts ignored, and so would be its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
