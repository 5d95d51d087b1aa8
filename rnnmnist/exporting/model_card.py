"""The model card of a safetensors export: a README for the Hugging Face Hub.

References:
    Mitchell et al., "Model Cards for Model Reporting", FAccT 2019;
    https://huggingface.co/docs/hub/model-cards for the YAML.
"""

import json
from pathlib import Path

import jinja2

from rnnmnist.evaluation.metrics import interval, percent, wilson_interval
from rnnmnist.exporting.source import Source
from rnnmnist.models.classifier import count_params


def model_card(source: Source) -> str:
    """Fills the template `model_card.md`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = Path(__file__).with_name("model_card.md").read_text("utf-8")
    examples = len(source.labels)
    correct = int((source.logits.argmax(-1) == source.labels).sum())
    return environment.from_string(template).render(
        source=source,
        task=source.task,
        model=source.network.config.model,
        parameters=f"{count_params(source.params):,}",
        examples=f"{examples:,}",
        correct=f"{correct:,}",
        accuracy=f"{percent(correct / examples)} "
        f"({interval(wilson_interval(correct, examples))})",
        config=json.dumps(source.provenance["config"], indent=1),
    )
