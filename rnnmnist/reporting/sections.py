"""What a report shows of a run: pictures, and in words and tables what they say."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from rnnmnist.evaluation.calibration import calibration_bins
from rnnmnist.evaluation.formatting import interval, percent, probability
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.evaluation.predictions import Misclassification, most_confident_errors
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import Picture, Section, Table
from rnnmnist.reporting.palette import DARK, LIGHT, Palette
from rnnmnist.reporting.plots import Band, Tile
from rnnmnist.reporting.run_data import Line, RunData

MOST_WRONG = 16  # images of the gallery
MOST_PAIRS = 20  # of classes that were taken for another, in the table
ENOUGH = 0.9  # of the answers are right: early, if it is after few rows


def sections_of(findings: RunData) -> list[Section]:
    """Everything that is shown of a run, in the order of a page."""
    return [
        *_networks(findings),
        _curves(findings),
        _confusion(findings),
        _rows(findings),
        _per_class(findings),
        _decisions(findings),
        _gallery(findings),
        _reliability(findings),
    ]


def counted(result: Line) -> str:
    """A result's counts, as far as it has them: `9,902 of 10,000`, or their mean."""
    if not {"correct", "examples"} <= result.keys():
        return ""
    if "members" in result:
        mean = result["correct"] / len(result["members"])
        return f"{mean:,.1f} of {result['examples']:,} on average"
    return f"{result['correct']:,} of {result['examples']:,}"


def in_both_palettes(
    name: str, draw: Callable[[Palette], bytes], words: str
) -> Picture:
    """A picture in both palettes."""
    return Picture(name, draw(LIGHT), draw(DARK), words)


def bands(rights: Sequence[Sequence[int]], totals: Sequence[int]) -> list[Band]:
    """Accuracies, with an interval over images for one network, else over networks.

    Args:
        rights: counts of right answers, of each network.
        totals: images that each of these counts is of.

    Returns:
        For one network its 95 % Wilson intervals; for several the means of their
        accuracies, from the lowest to the highest: the same images scored N times
        tell no more of an accuracy than once.
    """
    if len(rights) == 1:
        found = []
        for right, total in zip(rights[0], totals, strict=True):
            low, high = wilson_interval(right, total)
            found.append(Band(low, right / total, high))
        return found
    shares = np.array(rights) / np.array(totals)[None]
    ends = zip(shares.min(0), shares.mean(0), shares.max(0), strict=True)
    return [Band(float(low), float(mean), float(high)) for low, mean, high in ends]


def _meaning(findings: RunData) -> str:
    """What a band is, for a caption."""
    number = len(findings.networks)
    if number > 1:
        return f"Bands go from the lowest to the highest of the {number} networks."
    return "Bands are 95 % intervals over images (Wilson)."


def _ends(findings: RunData) -> str:
    """What a band is, for the header of a table."""
    return "lowest to highest" if len(findings.networks) > 1 else "95 % interval"


def _networks(findings: RunData) -> list[Section]:
    """A table with a row for each network of a stack; nothing for one."""
    if len(findings.members) == 1:
        return []
    rows = [
        [
            f"seed {member['seed']}",
            counted(member),
            percent(member["accuracy"]),
            interval(member["accuracy_interval"]),
            f"{member['loss']:.4f}",
            f"{100 * calibration_bins([answers]).calibration_error:.2f} points",
        ]
        for member, answers in zip(findings.members, findings.networks, strict=True)
    ]
    header = ["network", "right", "accuracy", "95 % interval", "loss"]
    return [
        Section(
            "The networks",
            ["Intervals are over images (Wilson); the calibration error is below."],
            table=Table([*header, "calibration error"], rows),
        )
    ]


def _curves(findings: RunData) -> Section:
    title = "How it was learned"
    metrics, validated = findings.metrics, findings.validated
    if not metrics:
        return Section(
            title, ["metrics.jsonl is not in this workdir, so there are no curves."]
        )
    trained = [line for line in metrics if line["split"] == "train"]
    words = f"Two panels over {metrics[-1]['step']:,} steps: loss and accuracy."
    for name, lines in (("Training", trained), ("Validation", validated)):
        if lines:
            first, last = lines[0], lines[-1]
            words += (
                f" {name} loss goes from {first['loss']:.3f} at step {first['step']:,} "
                f"to {last['loss']:.4f} at step {last['step']:,}, accuracy from "
                f"{percent(first['accuracy'])} to {percent(last['accuracy'])}."
            )
    trained_on = "the images of training, before the update"
    if _last_batches(findings):
        trained_on = "the last batch of each interval, after its update"
    text = [f"Loss and accuracy on {trained_on}, and on the whole validation split."]
    train = findings.config.train
    if train.label_smoothing:
        text.append(
            "The training loss is that of labels smoothed by "
            f"{train.label_smoothing:g}, and cannot come near 0."
        )
    if train.ema_decay:
        text.append("Validation is of the average of the weights that are trained.")
    if any(line.get("members") for line in metrics):
        text.append(
            "Lines are the means of the networks, bands go from the lowest to the "
            "highest."
        )
    rows = [
        [
            f"{line['step']:,}",
            f"{line['loss']:.4f}",
            percent(line["accuracy"]),
            counted(line),
        ]
        for line in validated
    ]
    header = ["step", "validation loss", "validation accuracy", "right"]
    return Section(
        title,
        text,
        in_both_palettes(
            "curves", lambda palette: plots.curves(metrics, palette), words
        ),
        Table(header, rows) if rows else None,
    )


def _last_batches(findings: RunData) -> bool:
    return findings.config.train.log_metrics == "last_batch"


def _rows(findings: RunData) -> Section:
    total = len(findings.images.labels)
    counts = [answers.correct_after_rows.tolist() for answers in findings.networks]
    found = bands(counts, [total] * len(counts[0]))
    guessing = max(np.bincount(findings.images.labels).tolist()) / total
    late = [k for k, band in enumerate(found, 1) if band.middle < ENOUGH]
    enough = max(late, default=0) + 1
    known = f" From row {enough} on, nine of ten answers are right."
    known = known if enough <= len(found) else ""
    parts = [f"{percent(found[row - 1].middle)} after {row}" for row in (7, 14, 21, 28)]
    rows = [
        [
            f"{row}",
            ", ".join(f"{right[row - 1]:,}" for right in counts),
            percent(band.middle),
            interval((band.low, band.high)),
        ]
        for row, band in enumerate(found, 1)
    ]
    header = ["rows read", "right", "accuracy"]
    return Section(
        "How early it knows",
        [
            "What it would answer if it had to after so many rows, though it was "
            f"trained to answer after the last alone.{known} {_meaning(findings)} "
            "Guessing is to say the commonest class always."
        ],
        in_both_palettes(
            "rows",
            lambda palette: plots.rows_read(found, guessing, palette),
            f"Right answers by rows read: {', '.join(parts)}.{known}",
        ),
        Table([*header, _ends(findings)], rows),
    )


def _decisions(findings: RunData) -> Section:
    """After which row answers stay, and which two classes are told apart last."""
    names, labels = findings.classes, findings.images.labels
    rows = [answers.decision_rows for answers in findings.networks]
    decided = np.concatenate(rows)
    repeated = np.tile(labels, len(rows))
    there = [place for place in range(len(names)) if (labels == place).any()]
    table = []
    for place in there:
        own = decided[repeated == place]
        nine = int(np.quantile(own, 0.9, method="inverted_cdf"))
        table.append([names[place], f"{np.median(own):.0f}", f"{nine}"])
    first = findings.networks[0]
    pairs = [
        (first.separation_row(one, other), names[one], names[other])
        for one, other in itertools.combinations(there, 2)
    ]
    never = len(first.said[0]) + 1
    pairs.sort(key=lambda pair: -(pair[0] or never))
    latest = "; ".join(
        f"{one} and {other} after row {row}" if row else f"{one} and {other} never"
        for row, one, other in pairs[:5]
    )
    return Section(
        "When it decides",
        [
            "A decision row is the one after which the answer no longer changes: "
            f"{np.median(decided):.0f} in the middle. Two classes part after the row "
            "from which on at most 2 % of their images are taken for the other one. "
            f"Last to part: {latest}."
        ],
        table=Table(["class", "middle decision row", "nine of ten by row"], table),
    )


def _confusion(findings: RunData) -> Section:
    table, names = np.array(findings.test["confusion"]), findings.classes
    mistakes = np.where(np.eye(len(table), dtype=bool), 0, table)
    order = np.argsort(-mistakes.ravel(), kind="stable")[:MOST_PAIRS]
    pairs = [
        (names[true], names[said], int(mistakes[true, said]))
        for true, said in zip(*np.unravel_index(order, table.shape), strict=True)
        if mistakes[true, said]
    ]
    most = ", ".join(
        f"{true} as {said} ({_times(count)})" for true, said, count in pairs[:5]
    )
    most = f"Most often: {most}." if pairs else "None is taken for another."
    text = ["Each row is what an image is, each column what was said. Grey is right."]
    if len(findings.members) > 1:
        text.append(f"Counts are summed over the {len(findings.members)} networks.")
    rows = [[true, said, f"{count:,}"] for true, said, count in pairs]
    return Section(
        "What is taken for what",
        [" ".join([*text, most])],
        in_both_palettes(
            "confusion",
            lambda palette: plots.confusion(table.tolist(), names, palette),
            f"A table of what is true by what was said. Of {table.sum():,} answers "
            f"{mistakes.sum():,} are wrong. {most}",
        ),
        Table(["true", "said", "images"], rows) if rows else None,
    )


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def _per_class(findings: RunData) -> Section:
    tables = np.array([member["confusion"] for member in findings.members])
    images = tables[0].sum(axis=1)
    there = np.flatnonzero(images)  # of a class without an image nothing is known
    rights = np.diagonal(tables, axis1=1, axis2=2)[:, there]
    names = [findings.classes[place] for place in there]
    found = bands(rights.tolist(), images[there].tolist())
    asked = images[there] * len(tables)
    notes = [
        f"{right:,} of {total:,}"
        for right, total in zip(rights.sum(axis=0), asked, strict=True)
    ]
    order = sorted(range(len(names)), key=lambda place: found[place].middle)
    best, worst = (
        f"{names[place]}, {percent(found[place].middle)} ({notes[place]})"
        for place in (order[-1], order[0])
    )
    rows = [
        [name, note, percent(band.middle), interval((band.low, band.high))]
        for name, note, band in zip(names, notes, found, strict=True)
    ]
    return Section(
        "Which classes are hard",
        [
            f"The best: {best}; the worst: {worst}. {_meaning(findings)} Where they "
            "overlap, the order of two classes may be chance."
        ],
        in_both_palettes(
            "classes",
            lambda palette: plots.per_class(
                found, notes, names, findings.test["accuracy"], palette
            ),
            f"Accuracy on each class. The best: {best}; the worst: {worst}.",
        ),
        Table(["class", "right", "accuracy", _ends(findings)], rows),
    )


def _gallery(findings: RunData) -> Section:
    title, names = "Surest and wrong", findings.classes
    mistakes = most_confident_errors(findings.networks[0], MOST_WRONG)
    if not mistakes:
        return Section(title, ["No image of the test split is wrong."])

    def tile(mistake: Misclassification) -> Tile:
        return Tile(
            findings.images.images[mistake.place],
            names[mistake.said],
            probability(mistake.probability),
            names[mistake.true],
        )

    wrong = int((~findings.networks[0].right).sum())
    whose = ""
    if len(findings.networks) > 1:
        whose = f" by the network of seed {findings.members[0]['seed']}"
    text = (
        f"Of {wrong:,} wrong answers{whose} the {len(mistakes)} that were given the "
        "highest probability, the surest first."
        if wrong > len(mistakes)
        else f"All {wrong:,} wrong answers{whose}, the surest first."
    )
    listed = "; ".join(
        f"said {names[mistake.said]} with {probability(mistake.probability)}, is "
        f"{names[mistake.true]}"
        for mistake in mistakes[:6]
    )
    rows = [
        [
            f"{mistake.place}",
            names[mistake.said],
            probability(mistake.probability),
            names[mistake.true],
            probability(mistake.probability_of_true),
        ]
        for mistake in mistakes
    ]
    return Section(
        title,
        [text],
        in_both_palettes(
            "gallery",
            lambda palette: plots.gallery(list(map(tile, mistakes)), palette),
            f"{text} They begin: {listed}.",
        ),
        Table(["image, from 0", "said", "with", "is", "given"], rows),
    )


def _reliability(findings: RunData) -> Section:
    bins, number = calibration_bins(findings.networks), len(findings.networks)
    there = np.flatnonzero(bins.images)
    images, right = bins.images[there], bins.right[there]
    confidence = bins.confidence[there] / images
    found = bands([right.tolist()], images.tolist())
    total, error = int(bins.images.sum()), bins.calibration_error
    sure, true = float(bins.confidence.sum()) / total, int(bins.right.sum()) / total
    verdict = "as sure as it should be on average"
    if points := round(100 * abs(sure - true), 2):
        kind = "too sure" if sure > true else "not sure enough"
        verdict = f"{kind}, by {points:.2f} points"
    summary = (
        f"Answers are given {percent(sure)} on average, and {percent(true)} are right: "
        f"that is {verdict}."
    )
    text = [
        f"{summary} On the line, the two would agree. Bars are 95 % intervals (Wilson)."
    ]
    if number > 1:
        text.append(
            f"These are the answers of all {number} networks together, about the same "
            "images, so the intervals are too narrow."
        )
    width = 100 / len(bins.images)
    text.append(
        "The expected calibration error is the mean distance from the line over "
        f"images, in {len(bins.images)} bins of one width, by the probability of the "
        "answer (Guo et al. 2017)."
    )
    rows = [
        [
            f"{width * place:.1f} to {width * (place + 1):.1f} %",
            f"{count:,}",
            f"{own:,}",
            percent(own / count),
            percent(mean),
        ]
        for place, count, own, mean in zip(
            there, images, right, confidence, strict=True
        )
    ]
    return Section(
        "Whether it knows what it knows",
        text,
        in_both_palettes(
            "reliability",
            lambda palette: plots.reliability(
                confidence.tolist(), found, bins.images.tolist(), error, palette
            ),
            f"{summary} Expected calibration error {100 * error:.2f} points. Above "
            f"{100 - width:.1f} % lie {bins.images[-1]:,} of {total:,} answers, of "
            f"which {bins.right[-1]:,} are right.",
        ),
        Table(["probability", "answers", "right", "accuracy", "its mean"], rows),
    )
