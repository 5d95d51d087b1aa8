"""Classifies each fold of sequences with MiniRocket, for `folds.py`.

    python tools/minirocket_folds.py FILE

The environment is that of `requirements-baselines.txt`. FILE is a .npz file of `inputs`
[n, features, time], `labels` and `folds` [n], and `seed`, that of the first fold; those
of the others follow. Writes the correct predictions of each fold as a JSON array.
"""

import json
import sys

import numpy as np
from aeon.classification.convolution_based import (  # type: ignore[import-not-found]
    MiniRocketClassifier,
)


def main() -> None:
    """Reads the file, and classifies each fold after a fit to all others."""
    data = np.load(sys.argv[1])
    inputs, labels, folds = data["inputs"], data["labels"], data["folds"]
    correct = []
    for fold in range(folds.max() + 1):
        is_out = folds == fold
        classifier = MiniRocketClassifier(random_state=int(data["seed"]) + fold)
        classifier.fit(inputs[~is_out], labels[~is_out])
        predicted = classifier.predict(inputs[is_out])
        correct.append(int((predicted == labels[is_out]).sum()))
    print(json.dumps(correct))


if __name__ == "__main__":
    main()
