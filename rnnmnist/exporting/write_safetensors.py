"""Writes the parameters as safetensors, with a model card for the Hugging Face Hub.

References:
    Mitchell et al., "Model Cards for Model Reporting", FAccT 2019;
    https://huggingface.co/docs/hub/model-cards for the YAML.
"""

import json
from pathlib import Path

import jinja2
from safetensors.numpy import save

from rnnmnist.evaluation.metrics import interval, percent, score_logits
from rnnmnist.exporting.source import Source
from rnnmnist.models.classifier import count_params
from rnnmnist.runs.checkpoints import named_leaves


def write(source: Source, folder: Path) -> None:
    """Writes the parameters, `config.json` for `predict.py`, and the model card."""
    # Of an ensemble, the names begin with the index of the member.
    params = source.members if source.members[1:] else source.members[0]
    arrays = {name.replace("/", "."): array for name, array in named_leaves(params)}
    (folder / "model.safetensors").write_bytes(save(arrays))
    model = source.network.config.model
    mean, std, missing = source.network.normalization
    order = source.network.pixel_order
    content = {
        "members": len(source.members),
        "cell": model.cell,
        "hidden_size": model.hidden_size,
        "num_layers": model.layers,
        "window": model.window_size,
        "stride": model.window_stride,
        "pooling": model.pooling,
        "bidirectional": model.bidirectional,
        "pixel_order": None if order is None else order.tolist(),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "missing": missing,
        "provenance": source.provenance,
    }
    (folder / "config.json").write_text(json.dumps(content) + "\n")
    (folder / "README.md").write_text(model_card(source), "utf-8")


def model_card(source: Source) -> str:
    """Fills the template `model_card.md`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = Path(__file__).with_name("model_card.md").read_text("utf-8")
    scores = score_logits(source.logits[None], source.labels)
    return environment.from_string(template).render(
        source=source,
        task=source.network.task,
        model=source.network.config.model,
        parameters=f"{sum(map(count_params, source.members)):,}",
        examples=f"{scores.examples:,}",
        correct=f"{scores.correct:,}",
        accuracy=f"{percent(scores.accuracy)} ({interval(scores.accuracy_interval)})",
        config=json.dumps(source.provenance["config"], indent=1),
    )
