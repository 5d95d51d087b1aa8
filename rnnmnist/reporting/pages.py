"""The report page of a run, and the files of a report."""

import datetime
from importlib import metadata
from pathlib import Path

from rnnmnist.config.schema import SETTINGS, Config
from rnnmnist.errors import UserError, names_path
from rnnmnist.evaluation.accuracies import interval, percent, percentage_points
from rnnmnist.evaluation.metrics import format_accuracy, format_counts
from rnnmnist.reporting import html
from rnnmnist.reporting.html import Card, Page, Section, Table
from rnnmnist.reporting.run_data import RunData
from rnnmnist.reporting.sections import report_sections
from rnnmnist.runtime import machine


def report_card(command: str, time: datetime.datetime) -> Card:
    """Describes the report itself: its command, this machine and its versions."""
    return Card(
        "Report",
        [
            ("command", command),
            ("time", f"{time:%Y-%m-%d %H:%M %Z}"),
            ("machine", machine.describe_processor()),
            *machine.installed_versions().items(),
            ("matplotlib", metadata.version("matplotlib")),
        ],
    )


def write_files(folder: Path, page: Page) -> list[Path]:
    """Writes a page and its plots, and replaces those of an earlier report.

    Returns:
        The files, the page last.
    """
    files = html.picture_files(page)
    files["index.html"] = html.render_page(page).encode()
    index = folder / "index.html"
    if index.is_file() and html.MARK not in index.read_text(errors="replace"):
        raise UserError(f"workdir: {index} is not a report; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with names_path(folder / name):
            (folder / name).write_bytes(content)
    return [folder / name for name in files]


def report_page(run: RunData, card: Card) -> Page:
    """Returns the report page of a run."""
    scores = run.result
    caption = f"{run.split} accuracy: {format_counts(scores)} {run.noun} are correct"
    if len(run.networks) > 1:
        caption = f"mean {run.split} accuracy of {len(run.networks)} seeds, on "
        caption += f"{scores.examples:,} {run.noun}"
    return Page(
        title=f"{run.workdir.name}, on {run.task.name}",
        headline=percent(scores.accuracy),
        caption=caption,
        lead=_lead(run),
        sections=report_sections(run),
        cards=[_run_card(run), _configuration_card(run.config), card],
        appendix=_sessions(run),
    )


def _lead(run: RunData) -> list[str]:
    scores = run.result
    counts = [network.correct for network in scores.networks]
    they, their = "The network", "Its"
    if scores.accuracy_std is not None and scores.accuracy_mean_interval is not None:
        result = (
            f"Correct by seed: {_join(counts)}. The standard deviation over seeds is "
            f"{percentage_points(scores.accuracy_std)}, the 95 % interval of the mean "
            f"{interval(scores.accuracy_mean_interval)}."
        )
        they, their = "Each network", "Their"
    else:
        result = (
            f"95 % interval over {run.noun}: {interval(scores.accuracy_interval)}; "
            f"{scores.examples - counts[0]:,} errors."
        )
    lead = [
        result,
        f"{they} is {_describe_network(run.config)} that reads each {run.noun[:-1]} "
        f"{_reading(run)} and predicts its class at the end. {their} parameters are "
        f"those of step {run.step:,} of {run.config.train.num_steps:,}, "
        f"{_selection(run)}.",
        *_evaluated_data(run),
    ]
    recounted = [int(predictions.correct.sum()) for predictions in run.networks]
    if recounted != counts:
        lead.append(
            f"In the predictions for this report, {_join(recounted)} {run.noun} are "
            "correct, because rounding differs between devices. The sections on time "
            "steps read, errors and calibration use these predictions."
        )
    return lead


def _selection(run: RunData) -> str:
    """Describes why the page is of this step."""
    if run.selector != "best" or run.validation is None:
        return f"selected by --step={run.selector}"
    if run.selects:
        return f"with the best validation accuracy: {format_accuracy(run.validation)}"
    count = run.trained.examples.validation
    return f"the last step, since {count} validation {run.noun} do not select one"


def _evaluated_data(run: RunData) -> list[str]:
    """Describes data other than the training's, and a split other than test."""
    lines = []
    other = run.result.of_other_data
    if other:
        lines.append(
            f"The figures are of {run.task.name}, other data than those of the "
            "training, which the learning curves show."
        )
    if run.split != "test":
        selected = run.selector == "best" and run.selects and not other
        lines.append(
            f"{run.task.name} has no test split: all figures are of {run.split}"
            + (", which also selected the step." if selected else ".")
        )
    return lines


def _join(counts: list[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)


def _reading(run: RunData) -> str:
    """Describes what the network reads at a time."""
    if run.task.image_shape is None:
        return "one time step at a time"
    return {
        "rows": "row by row from the top",
        "columns": "column by column from the left",
        "pixels": "pixel by pixel in row order",
        "permuted": f"pixel by pixel in the order {run.config.data.permutation}",
    }[run.config.data.view]


def _describe_network(config: Config) -> str:
    """Describes the network in words: `an LSTM with 128 units`."""
    model = config.model
    cell = model.cell_name if model.is_user_cell else model.cell.upper()
    article = "an" if cell in ("LSTM", "RNN", "LRU") else "a"
    return f"{article} {cell} with {model.size}"


def _run_card(run: RunData) -> Card:
    result = run.result
    train = run.config.train
    examples = train.num_steps * train.batch_size
    epochs = examples / run.trained.examples.train
    return Card(
        "Run",
        [
            ("workdir", str(run.workdir)),
            ("data set", run.task.name),
            ("network", _describe_network(run.config)),
            ("parameters", f"{result.num_parameters:,}"),
            ("checkpoint", f"step {run.step:,} of {train.num_steps:,}"),
            (
                "training",
                f"{examples:,} {run.noun}, {epochs:.1f} epochs of {run.trained.name}",
            ),
            (
                "validation",
                format_accuracy(run.validation) if run.validation else "none",
            ),
            (run.split, format_accuracy(result)),
            ("balanced accuracy", percent(result.balanced_accuracy)),
            (f"{run.split} loss", f"{result.loss:.4f} nats"),
            ("seconds", _seconds(run)),
            ("SHA-256 of parameters", result.params_sha256),
        ],
    )


def _seconds(run: RunData) -> str:
    if run.seconds is None:
        return "not recorded"
    text = f"{run.seconds:,.1f}"
    if len(run.sessions) > 1:
        text += f", in {len(run.sessions)} sessions"
    return text


def _configuration_card(config: Config) -> Card:
    """Lists all settings, with the default beside each value that differs from it."""
    entries = []
    for name, value in config.flat().items():
        default = SETTINGS[name].default
        note = "" if value == default else f" (default: {default})"
        entries.append((name, f"{value}{note}"))
    return Card("Configuration", entries)


def _sessions(run: RunData) -> list[Section]:
    """Returns a table of the training sessions; none if none is recorded."""
    rows = [
        [
            session.time,
            f"{session.from_step:,} to {session.step:,}",
            ", ".join(f"{name} {value:.1f}" for name, value in session.seconds.items()),
            session.hardware,
            session.devices,
            machine.join_versions(session.versions),
        ]
        for session in run.sessions
    ]
    header = ["start", "steps", "seconds", "hardware", "devices", "versions"]
    return [Section("Training sessions", table=Table(header, rows))] if rows else []
