"""The scripts for clusters, run as far as one machine allows: with stand-ins for it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import yaml
from support import REPOSITORY

LAUNCH = REPOSITORY / "launch"
# Starts what it is given once for each task, as SLURM would, and as the last exit
# code the highest one.
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


def results(workdir: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in workdir.glob("evaluation/*")]


@pytest.mark.slow
def test_slurm_trains_in_all_tasks(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    stand_in(tmp_path / "bin", "srun", SRUN)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    clean = {key: text for key, text in environment.items() if "proxy" not in key}
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
        "SLURM_JOB_ID": str(runs.free_port()),
        "SLURM_JOB_NAME": "rnnmnist",
    }
    words = runs.words(tmp_path, data_dir, "--config.train.num_devices=2")[1:]
    finished = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", *words],
        cwd=tmp_path,
        env={k: v for k, v in clean.items() if "PROXY" not in k} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert "2 cpu devices of 2 processes" in finished.stdout
    assert len(results(tmp_path / "checkpoints" / "rnnmnist")) == 1


@pytest.mark.parametrize(
    ("code", "restarts"),
    [(143, ""), (137, "19"), (137, "20"), (2, ""), (1, ""), (0, "")],
)
def test_slurm_starts_again_what_a_signal_has_stopped(
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


def test_the_jobsets_flags_belong_together() -> None:
    document = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (workers,) = document["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    name = document["metadata"]["name"]
    words = jobset_command()
    assert job["completions"] == job["parallelism"]
    assert f"--num_processes={job['completions']}" in words
    (address,) = [word for word in words if "coordinator_address" in word]
    host = f"{name}-{workers['name']}-0-0.{name}"  # as JobSet calls the first pod
    (port,) = job["template"]["spec"]["containers"][0]["ports"]
    assert address == f"--coordinator_address={host}:{port['containerPort']}"


def jobset_command() -> list[str]:
    document = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return container["command"]


@pytest.mark.slow
def test_the_jobsets_command_trains(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """In two processes, on loopback, with the images that need no download."""
    program, module, name, *words = jobset_command()
    assert (program, module, name) == ("python", "-m", "rnnmnist.main")
    workdir = tmp_path / "default"
    replaced = {
        "--workdir": str(workdir),
        "--config.data.data_dir": str(data_dir),
        "--config": "embedded",
    }
    place = ("--coordinator_address", "--num_processes", "--process_id")
    kept = []
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in place:  # which `start_together` gives, for this machine
            kept.append(f"{flag}={replaced.get(flag, value)}")
    kept += [*runs.SETTINGS, "--config.train.num_devices=2"]
    ended = runs.outcomes(runs.start_together(environment, [kept] * 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert len(results(workdir)) == 1


def test_cloud_tpu_runs_the_same_command_on_all_hosts(tmp_path: Path) -> None:
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
    words = ["--workdir=/mnt/my runs", "--config=default", "--config.seed=1"]
    doctor = [".venv/bin/python", "-m", "rnnmnist.doctor", "--require=tpu"]
    assert shlex.split(install)[-7:] == [*doctor, *words]
    main = [".venv/bin/python", "-m", "rnnmnist.main"]
    assert shlex.split(train)[-6:] == [*main, *words]
    del variables["TPU"]
    refused = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert refused.returncode != 0
    assert re.search("TPU: name the slice", refused.stderr)
