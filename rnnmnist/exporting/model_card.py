"""The model card of a safetensors export: a README for the Hugging Face Hub.

References:
    Mitchell et al., "Model Cards for Model Reporting", FAccT 2019;
    https://huggingface.co/docs/hub/model-cards for the YAML.
"""

import json
from typing import Any

from rnnmnist.evaluation.accuracies import interval, percent, wilson_interval
from rnnmnist.exporting.source import Source
from rnnmnist.models.classifier import count_params

HUB_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
TEMPLATE = """---
{metadata}
---

# {title}

{description}

| data set | split | examples | correct | accuracy (95 % interval) |
| --- | --- | --- | --- | --- |
| {dataset} | {split} | {examples:,} | {correct:,} | {accuracy} ({interval}) |

## Use

`predict.py` needs NumPy only:

```python
from pathlib import Path

from predict import load

predict = load(Path("."))
logits = predict({arguments})  # {shapes}
classes = {classes}
```

The inputs are not normalized: `predict` does that. `certificate.json` records that
its predictions were compared with those of rnnmnist for every example above.

## Training

```json
{config}
```
"""


def model_card(source: Source) -> str:
    """Returns the text of the card."""
    task = source.task
    config = source.restored.config
    examples = len(source.logits)
    images = task.image_shape is not None
    metadata: dict[str, Any] = {
        "library_name": "rnnmnist",
        "tags": ["jax", "flax", "recurrent-neural-network", config.model.cell],
        "metrics": ["accuracy"],
    }
    if images:
        metadata["pipeline_tag"] = "image-classification"
    if task.name in HUB_DATASETS:
        metadata["datasets"] = [HUB_DATASETS[task.name]]
    return TEMPLATE.format(
        # JSON is YAML, too.
        metadata="\n".join(f"{key}: {json.dumps(metadata[key])}" for key in metadata),
        title=f"rnnmnist-{config.model.cell}-{task.name}",
        description=(
            f"A recurrent network (`{config.model.cell}`, {config.model.hidden_size} "
            f"units, {count_params(source.params):,} parameters) that classifies "
            f"{task.noun} of up to {task.time_steps} time steps of {task.features} "
            "features."
        ),
        dataset=source.dataset,
        split=source.split,
        examples=examples,
        correct=source.correct,
        accuracy=percent(source.correct / examples),
        interval=interval(wilson_interval(source.correct, examples)),
        arguments="images" if images else "sequences, lengths",
        shapes=(
            f"uint8 [n, {', '.join(map(str, task.image_shape))}]"
            if task.image_shape
            else f"float32 [n, time, {task.features}], int32 [n]"
        ),
        classes=list(task.classes),
        config=json.dumps(source.provenance["config"], indent=1),
    )
