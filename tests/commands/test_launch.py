"""The scripts for clusters, run with stand-ins for the cluster's commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trainer
import yaml
from support import REPOSITORY

LAUNCH = REPOSITORY / "launch"
# Starts its command once per task, as SLURM does, and exits with the highest code.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
  SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task \
    "$@" &
done
code=0
for task in $(jobs -p); do wait "$task" || { c=$?; ((c > code)) && code=$c; }; done
exit $code
"""


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)


@pytest.mark.slow
def test_slurm_trains_in_all_tasks(
    environment: dict[str, str], data_dir: Path, pair: Path, tmp_path: Path
) -> None:
    """jax detects the tasks, which resume and end a run of two processes with flags."""
    workdir = trainer.copy_of(pair, tmp_path / "checkpoints" / "rnnmnist")
    trainer.cut_back(workdir, 100)
    stand_in(tmp_path / "bin", "srun", SRUN)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    clean = {k: v for k, v in environment.items() if "proxy" not in k.lower()}
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([trainer.TOGETHER, *filter(None, sys.path)]),
        "SLURM_JOB_ID": str(trainer.free_port()),
        "SLURM_JOB_NAME": "rnnmnist",
    }
    args = trainer.arguments(tmp_path, data_dir)[1:]
    finished = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", *args],
        cwd=tmp_path,
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert "2 cpu devices of 2 processes" in finished.stdout
    assert "resuming from step 100\n" in finished.stdout
    trainer.assert_same_end(workdir, pair)


@pytest.mark.parametrize(
    ("code", "restarts"),
    [(143, ""), (137, "19"), (137, "20"), (2, ""), (1, ""), (0, "")],
)
def test_slurm_requeues_jobs_that_a_signal_has_stopped(
    tmp_path: Path, code: int, restarts: str
) -> None:
    stand_in(tmp_path / "bin", "srun", f"#!/bin/bash\nexit {code}\n")
    stand_in(tmp_path / "bin", "scontrol", '#!/bin/bash\necho "scontrol $*"\n')
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "rnnmnist",
        "SLURM_RESTART_COUNT": restarts,
    }
    finished = subprocess.run(
        ["bash", LAUNCH / "slurm.sh"], env=variables, capture_output=True, text=True
    )
    assert finished.returncode == code
    again = code > 128 and restarts != "20"
    assert finished.stdout == ("scontrol requeue 7\n" if again else "")


def test_the_flags_of_the_jobset_are_consistent() -> None:
    spec = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (workers,) = spec["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    name = spec["metadata"]["name"]
    args = jobset_command()
    assert job["completions"] == job["parallelism"]
    assert f"--num_processes={job['completions']}" in args
    (address,) = [arg for arg in args if "coordinator_address" in arg]
    host = f"{name}-{workers['name']}-0-0.{name}"  # as JobSet calls the first pod
    (port,) = job["template"]["spec"]["containers"][0]["ports"]
    assert address == f"--coordinator_address={host}:{port['containerPort']}"


def jobset_command() -> list[str]:
    spec = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    job = spec["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return container["command"]


@pytest.mark.slow
def test_the_command_of_the_jobset_continues_a_run(
    environment: dict[str, str], data_dir: Path, pair: Path, tmp_path: Path
) -> None:
    """In two processes on this machine, with the embedded data set."""
    program, module, name, *args = jobset_command()
    assert (program, module, name) == ("python", "-m", "rnnmnist.main")
    workdir = trainer.copy_of(pair, tmp_path / "default")
    trainer.cut_back(workdir, 100)
    replaced = {
        "--workdir": str(workdir),
        "--config.data.data_dir": str(data_dir),
        "--config": "embedded",
    }
    coordinates = ("--coordinator_address", "--num_processes", "--process_id")
    kept = []
    for arg in args:
        flag, _, value = arg.partition("=")
        if flag not in coordinates:  # `start_together` adds them
            kept.append(f"{flag}={replaced.get(flag, value)}")
    kept += trainer.SETTINGS
    ended = trainer.outcomes(trainer.start_together(environment, [kept] * 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "resuming from step 100\n" in ended[0][1]
    trainer.assert_same_end(workdir, pair)


def test_cloud_tpu_runs_one_command_on_all_hosts(tmp_path: Path) -> None:
    record = '#!/bin/bash\nprintf "%s\\n" "${*: -1}" >> "$RECORD"\n'
    stand_in(tmp_path / "bin", "gcloud", record)
    script = ["bash", f"{LAUNCH}/cloud_tpu.sh", "--config=default", "--config.seed=1"]
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "TPU": "slice",
        "ZONE": "here",
        "WORKDIR": "/mnt/my runs",
    }
    finished = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    text = (tmp_path / "record").read_text()
    install, train = text.removeprefix("--command=").split("--command=")
    args = ["--workdir=/mnt/my runs", "--config=default", "--config.seed=1"]
    doctor = [".venv/bin/python", "-m", "rnnmnist.doctor", "--require=tpu"]
    assert shlex.split(install)[-7:] == [*doctor, *args]
    main = [".venv/bin/python", "-m", "rnnmnist.main"]
    assert shlex.split(train)[-6:] == [*main, *args]
    del variables["TPU"]
    refused = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert refused.returncode != 0
    assert re.search("TPU: name the slice", refused.stderr)
