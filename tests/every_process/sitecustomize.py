"""Every Python process that a test starts imports this module from `PYTHONPATH`."""

import importlib
import os

if __name__ == "sitecustomize":  # not if pytest collects doctests
    importlib.import_module("connections")
    if "KEEP_PROGRAMS" in os.environ:
        importlib.import_module("programs")
