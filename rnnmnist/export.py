"""Writes a trained network for other runtimes, and compares it with the checkpoint.

    python -m rnnmnist.export --workdir=DIR --format=all --output=FOLDER

Each format gets a folder with the network and a `certificate.json`, which contains the
result of the comparison on every test example. The exit code is 1 if a prediction
differs, unless the logits of the two classes are equal but for rounding.
"""

import importlib

from rnnmnist import cli, errors
from rnnmnist.config.files import parse_folder
from rnnmnist.exporting.formats import FORMATS, check_packages


def main(argv: list[str]) -> None:
    """Writes exports, and prints how each compares with the checkpoint."""
    parser = cli.Parser("export", __doc__)
    parser.add_workdir()
    parser.add_argument(
        "--format", choices=[*FORMATS, "all"], required=True, help="what to write"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="where to write it"
    )
    parser.add_argument("--force", action="store_true", help="replace those in FOLDER")
    parser.add_step_and_paths()
    args = parser.parse(argv)
    output = parse_folder(args.output, "output")
    names = list(FORMATS) if args.format == "all" else [args.format]
    for name in names:
        if (output / name).exists() and not args.force:
            raise errors.UserError(
                f"--output: {output / name} exists; name another folder, or "
                "replace it with --force"
            )
    check_packages(names)
    from rnnmnist.evaluation.network import TrainedNetwork
    from rnnmnist.evaluation.probabilities import combine_members
    from rnnmnist.exporting.comparison import compare, warn_of_lost_digits
    from rnnmnist.runs.writing import write_folder, write_json
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    paths = cli.parse_settings(args)
    network = TrainedNetwork(args.workdir, args.step, paths=paths, cell=args.cell)
    task, split, examples = network.load_split()
    warn_of_lost_digits(network, examples)
    expected = combine_members(network.logits(examples))
    wrong = []
    for name in names:
        writer = importlib.import_module(f"rnnmnist.exporting.write_{name}")
        with write_folder(output / name) as folder:
            artefact = folder / f"model.{name}"
            writer.write(network, artefact)
            result = compare(artefact, network, task, split, examples, expected)
            write_json(folder / "certificate.json", result)
        print(
            f"{name}: {result.examples - result.differing:,} of {result.examples:,} "
            "predictions are equal; logits differ by at most "
            f"{result.max_abs_difference:.1e}, in {output / name}",
            flush=True,
        )
        if result.differing > result.ties:
            wrong.append(name)
    if wrong:
        raise errors.RunError(
            f"{' and '.join(wrong)} in {output} predict another class for some examples"
        )


if __name__ == "__main__":
    cli.run(main)
