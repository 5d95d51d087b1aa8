"""Hides the user's environment from the tests and from what they start.

Imported before the libraries, since some read their variables at the import.
"""

import os
import re
import signal

KEPT = ("RNNMNIST_ORIGINALS",)
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
    # A shell starts `COMMAND &` with interrupts ignored, and so would be its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
