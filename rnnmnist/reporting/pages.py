"""A run's report: from what is known of it to a page, and its files."""

import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rnnmnist.config.schema import TRAIN_EXAMPLES, Config, flatten
from rnnmnist.errors import RunError, UserError
from rnnmnist.evaluation.formatting import interval, percent
from rnnmnist.reporting import html
from rnnmnist.reporting.html import Card, Command, Page, Section, Table
from rnnmnist.reporting.run_data import RunData
from rnnmnist.reporting.sections import counted, sections_of
from rnnmnist.runtime import hardware, versions
from rnnmnist.runtime.workdir import check_writable


class ReportContext(NamedTuple):
    """By which command and when a report is made, as it says itself."""

    command: str
    time: datetime.datetime

    @property
    def card(self) -> Card:
        """The report's own card, with this machine and its versions."""
        names = [*versions.read_tested(), "matplotlib"]
        return Card(
            "This report",
            [
                ("command", Command(self.command)),
                ("time", f"{self.time:%Y-%m-%d %H:%M %Z}"),
                ("machine", hardware.describe()),
                *((name, versions.installed(name)) for name in names),
            ],
        )


def check_place(folder: Path) -> None:
    """Holds that a report can be written in a folder, before anything slow.

    Nothing is ever deleted; what a report does not write must not be there.

    Raises:
        UserError: when it cannot, or the folder is another's.
    """
    try:
        others = [
            path.name
            for path in (folder.iterdir() if folder.exists() else ())
            if path.name != "index.html" and path.suffix != ".png"
        ]
        check_writable(folder)
    except OSError as error:
        raise UserError(f"--workdir: {folder} cannot be written: {error}") from error
    if others:
        raise UserError(
            f"--workdir: a report would be written to {folder}, which holds "
            f"{min(others)}, and so is not a report's; move it away"
        )


def write_files(folder: Path, page: Page) -> list[Path]:
    """Writes a page and its pictures, over those of an earlier report.

    Returns:
        The files, the page last.

    Raises:
        RunError: when they cannot be written.
    """
    files = html.pictures(page) | {"index.html": html.write(page).encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise RunError(f"the report cannot be written: {error}") from error
    return [folder / name for name in files]


def report_page(findings: RunData, occasion: ReportContext) -> Page:
    """The page of one run."""
    test, number = findings.test, len(findings.members)
    answer_to = f"of the test images right: {counted(test)}"
    if number > 1:
        answer_to = f"of {test['examples']:,} test images right, on average over "
        answer_to += f"{number} networks"
    return Page(
        title=f"{findings.workdir.name}, on {test['dataset']}",
        answer=percent(test["accuracy"]),
        answer_to=answer_to,
        lead=_lead(findings),
        sections=sections_of(findings),
        cards=[_run_card(findings), _configuration(findings.config), occasion.card],
        appendix=_sessions(findings),
    )


def describe_network(config: Config) -> str:
    """A configuration's network in words: `an LSTM with 128 units`."""
    article = "a" if config.model.cell == "gru" else "an"
    cell, units = config.model.cell.upper(), config.model.hidden_size
    return f"{article} {cell} with {units:,} unit{'s' if units > 1 else ''}"


def _lead(findings: RunData) -> list[str]:
    test, train = findings.test, findings.config.train
    counts = [member["correct"] for member in findings.members]
    if len(counts) > 1:
        first = (
            f"By seed, {_listed(counts)} are right. Standard deviation over seeds "
            f"{100 * test['accuracy_std']:.2f} points; 95 % interval of the mean "
            f"{interval(test['accuracy_mean_interval'])}."
        )
    else:
        wrong = test["examples"] - test["correct"]
        first = (
            f"95 % interval over images: {interval(test['accuracy_interval'])}. "
            f"{wrong:,} {'image is' if wrong == 1 else 'images are'} wrong."
        )
    network = describe_network(findings.config)
    start, its = f"{network[0].upper()}{network[1:]}", "Its"
    if len(counts) > 1:
        start, its = f"Each network is {network} and", "Their"
    chosen = f"as --step={findings.wanted} asks for"
    if findings.wanted == "best" and findings.validation is not None:
        chosen = f"the best on validation: {_validation(findings.validation)}"
    second = (
        f"{start} reads each image row by row from the top and answers after the last "
        f"row. {its} parameters are those of step "
        f"{findings.step:,} of {train.num_steps:,}, {chosen}."
    )
    again = [int(answers.right.sum()) for answers in findings.networks]
    if again == counts:
        return [first, second]
    third = (
        f"Asked again for this report, {_listed(again)} are right: numbers are rounded "
        "otherwise here than where the result was counted. Rows read, confidence and "
        "mistakes below are from these answers."
    )
    return [first, second, third]


def _listed(counts: list[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)


def _validation(validation: dict[str, Any]) -> str:
    counts = counted(validation)
    return percent(validation["accuracy"]) + (f" ({counts})" if counts else "")


def _run_card(findings: RunData) -> Card:
    test, config = findings.test, findings.config
    images = config.train.num_steps * config.train.batch_size
    epochs = images / TRAIN_EXAMPLES[config.data.name]
    validation = findings.validation
    return Card(
        "The run",
        [
            ("workdir", str(findings.workdir)),
            ("data set", test["dataset"]),
            ("network", describe_network(config)),
            ("parameters", f"{test['num_parameters']:,}"),
            ("checkpoint", f"step {findings.step:,} of {config.train.num_steps:,}"),
            ("all steps", f"{images:,} images, {epochs:.1f} times the training split"),
            ("validation", _validation(validation) if validation else "none here"),
            ("test", "; ".join(map(counted, findings.members))),
            ("test loss", f"{test['loss']:.4f} nats"),
            ("seconds", _seconds(findings)),
            ("SHA-256 of parameters", test["params_sha256"]),
        ],
    )


def _moment(text: str) -> str:
    """A time of a file of lines, to the minute; as it is if it is no time."""
    try:
        return f"{datetime.datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return text


def _seconds(findings: RunData) -> str:
    number = len(findings.sessions)
    if findings.seconds is None:
        return "not recorded"
    text = f"{findings.seconds:,.1f}"
    if number > 1:
        text += f", in {number} sessions"
    unended = sum(session.end is None for session in findings.sessions)
    return f"{text}, without {unended} that did not end" if unended else text


def _configuration(config: Config) -> Card:
    """All settings; beside those that are not the default, the default."""
    defaults = flatten(Config().to_dict())
    entries = []
    for name, value in flatten(config.to_dict()).items():
        text = _shown(value)
        if value != defaults[name]:
            text += f" (default: {_shown(defaults[name])})"
        entries.append((name, text))
    return Card("Configuration", entries)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _sessions(findings: RunData) -> list[Section]:
    """A table of the processes that trained; nothing where none is recorded."""
    rows = []
    for session in findings.sessions:
        start, end = session.start, session.end or {}
        last = f"{end['step']:,}" if end else "no recorded end"
        seconds = end.get("seconds", {}).items()
        rows.append(
            [
                _moment(str(start.get("time", ""))),
                f"{start['step']:,} to {last}",
                ", ".join(f"{name} {spent:.1f}" for name, spent in seconds),
                str(start.get("hardware", "")),
                str(start.get("devices", "")),
                ", ".join(map(" ".join, start.get("versions", {}).items())),
            ]
        )
    header = ["began", "steps", "seconds", "hardware", "devices", "versions"]
    title = "Sessions of training"
    return [Section(title, table=Table(header, rows))] if rows else []
