"""The launch scripts for clusters, tested on this machine."""

import os
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import trainer
import yaml
from support import REPOSITORY

from rnnmnist.commands.train import parse

LAUNCH = REPOSITORY / "launch"
MAIN = [".venv/bin/python", "-m", "rnnmnist.main"]
SHORT = "--config.train.num_steps=7"


def arguments_of(program: str, script: str, *args: str, **variables: str) -> list[str]:
    """Runs a launch script, and returns the arguments that it passes to a program.

    The program is replaced with a shell function that prints its arguments.
    """
    function = f'{program}() {{ printf "%s\\0" "$@"; }}'
    process = subprocess.run(
        ["bash", "-c", f'{function}; . {LAUNCH}/{script} "$@"', script, *args],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split("\0")[:-1]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_slurm_runs_two_processes(new_run: trainer.Run) -> None:
    """JAX detects the processes from SLURM's variables."""
    args = new_run.arguments(SHORT)
    argv = arguments_of("srun", "slurm.sh", *args, SLURM_JOB_NAME="rnnmnist")
    command = argv[argv.index(MAIN[0]) :]
    assert command[:3] == MAIN
    variables = trainer.variables_together(new_run.environment) | {
        "SLURM_JOB_ID": str(trainer.free_port()),  # JAX derives a port from it
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
    }
    processes = [
        trainer.popen(
            variables | {"SLURM_PROCID": task, "SLURM_LOCALID": task}, *command[1:]
        )
        for task in ("0", "1")
    ]
    first, second = trainer.outcomes(processes)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "cpu devices: 2, processes: 2" in first[1]
    assert (new_run.workdir / "evaluation" / "test-7.json").exists()


def test_a_jobset_runs_one_process_per_pod() -> None:
    """Kubernetes inserts the index of each pod into its arguments."""
    spec = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    program, args = container["command"][:3], container["command"][3:]
    assert program == ["python", *MAIN[1:]]
    for index in range(job["completions"]):
        argv = [arg.replace("$(JOB_COMPLETION_INDEX)", str(index)) for arg in args]
        assert parse(argv).processes[1:] == (job["completions"], index)


def test_cloud_tpu_passes_arguments_with_special_characters(tmp_path: Path) -> None:
    """A shell on each host of the slice parses the arguments."""
    workdir, args = (
        tmp_path / "a user's",
        [SHORT, f"--config.data.path={tmp_path}/my x"],
    )
    variables = {"TPU": "slice", "ZONE": "here", "WORKDIR": str(workdir)}
    argv = arguments_of("gcloud", "cloud_tpu.sh", *args, **variables)
    command = shlex.split(argv[-1].removeprefix("--command="))
    assert command == [*MAIN, f"--workdir={workdir}", *args]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirement = f"'rnnmnist @ git+{project['urls']['Repository']}'"
    assert requirement in " ".join(argv)
