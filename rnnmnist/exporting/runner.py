"""Runs an export in a process that imports nothing of this package.

python -P runner.py PREDICT.py FOLDER INPUTS.npz LOGITS.npy
"""

import runpy
import sys
from pathlib import Path

import numpy as np

BATCH = 128

if __name__ == "__main__":
    script, folder, inputs, outputs = map(Path, sys.argv[1:])
    predict = runpy.run_path(str(script))["load"](folder)
    with np.load(inputs) as file:
        examples = [file[name] for name in file.files]
    logits = [
        predict(*(array[start : start + BATCH] for array in examples))
        for start in range(0, len(examples[0]), BATCH)
    ]
    np.save(outputs, np.concatenate(logits))
