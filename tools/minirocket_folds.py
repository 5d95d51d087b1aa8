"""Cross-validates MiniRocket, for `folds.py`.

    python tools/minirocket_folds.py FILE

Runs in an environment with `requirements-baselines.txt`. FILE is a .npz file with
`inputs` [n, features, time], `labels` [n], `folds` [n], and `seed`. Fold i uses
`seed + i`. Prints the correct predictions of each fold as a JSON array.
"""

import json
import sys

import numpy as np
from aeon.classification.convolution_based import (  # type: ignore[import-not-found]
    MiniRocketClassifier,
)


def main() -> None:
    """Reads the file, and classifies each fold after fitting all other folds."""
    data = np.load(sys.argv[1])
    inputs, labels, folds = data["inputs"], data["labels"], data["folds"]
    correct = []
    for fold in range(folds.max() + 1):
        is_held_out = folds == fold
        classifier = MiniRocketClassifier(random_state=int(data["seed"]) + fold)
        classifier.fit(inputs[~is_held_out], labels[~is_held_out])
        predicted = classifier.predict(inputs[is_held_out])
        correct.append(int((predicted == labels[is_held_out]).sum()))
    print(json.dumps(correct))


if __name__ == "__main__":
    main()
