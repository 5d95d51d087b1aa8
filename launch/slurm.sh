#!/bin/bash
# One run on several GPUs or hosts under SLURM, one task for each GPU:
#
#   sbatch launch/slurm.sh --config=default --config.train.batch_size=1024
#
# jax detects the other tasks. The submission folder must be on a file system that all
# nodes share, and contain the environment `.venv`.
#SBATCH --job-name=rnnmnist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=00:30:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# A minute before the time limit every task gets SIGTERM, saves, and exits with 143. The
# job is then requeued, at most twenty times. It is not if a task fails, since it would
# fail again: that task exits with 1 or 2, and jax ends the others by SIGABRT.
srun --kill-on-bad-exit=0 --wait=120 \
  .venv/bin/python -m rnnmnist.main --workdir="checkpoints/$SLURM_JOB_NAME" "$@"
code=$?
if [ "$code" -eq 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
  scontrol requeue "$SLURM_JOB_ID" # resumes from the last checkpoint
fi
exit "$code"
