#!/bin/bash
# One run on all hosts of a Cloud TPU slice, which exists and is named by TPU and ZONE:
#
#   TPU=my-slice ZONE=us-west4-a bash launch/cloud_tpu.sh --config=default
#
# jax finds the other hosts by itself. WORKDIR has to be a folder that all hosts
# share, a mount of Filestore for instance; on a slice of one host (v2-8, v5e-8) any
# folder will do.
set -euo pipefail

: "${TPU:?name the slice}" "${ZONE:?name its zone}"
SOURCE=${SOURCE:-git+https://github.com/rnnmnist/rnnmnist}
WORKDIR=${WORKDIR:-checkpoints/default}
PYTHON=${PYTHON:-python3} # 3.11 or newer: images of Ubuntu 22.04 have an older one
WORDS="--workdir=${WORKDIR@Q} ${*@Q}"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

on_all_hosts "$PYTHON -m venv .venv &&
  .venv/bin/pip install --quiet 'rnnmnist @ $SOURCE' 'jax[tpu]' &&
  .venv/bin/python -m rnnmnist.doctor --require=tpu $WORDS"
# Run again after a preemption, it goes on from the last checkpoint.
on_all_hosts ".venv/bin/python -m rnnmnist.main $WORDS"
