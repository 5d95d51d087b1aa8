#!/bin/bash
# One run on all hosts of an existing Cloud TPU slice, which TPU and ZONE name:
#
#   TPU=my-slice ZONE=us-west4-a bash launch/cloud_tpu.sh --config=default
#
# The hosts install SOURCE, by default from the repository that pyproject.toml names. jax
# detects the other hosts. All hosts must share WORKDIR, for example on a mount of
# Filestore; on a slice with one host (v2-8, v5e-8) any folder works.
set -euo pipefail

: "${TPU:?name the slice}" "${ZONE:?name its zone}"
PYPROJECT=$(dirname "${BASH_SOURCE[0]}")/../pyproject.toml
SOURCE=${SOURCE:-git+$(sed -n 's/^Repository = "\(.*\)"$/\1/p' "$PYPROJECT")}
WORKDIR=${WORKDIR:-checkpoints/default}
PYTHON=${PYTHON:-python3} # 3.11 or newer; images of Ubuntu 22.04 have an older one
ARGS="--workdir=${WORKDIR@Q} ${*@Q}"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

on_all_hosts "$PYTHON -m venv .venv &&
  .venv/bin/pip install --quiet 'rnnmnist @ $SOURCE' 'jax[tpu]' &&
  .venv/bin/python -m rnnmnist doctor --require=tpu $ARGS"
# If it is run again after a preemption, it resumes from the last checkpoint.
on_all_hosts ".venv/bin/python -m rnnmnist.main $ARGS"
