#!/usr/bin/env bash
# Train on a slice of TPU VMs: ask for it, install on every host, run on every host, fetch, delete.
#
#   scripts/tpu_pod.sh create            queue the request (Spot capacity: SPOT=--spot)
#   scripts/tpu_pod.sh wait              until the slice is there
#   scripts/tpu_pod.sh install           code and packages on all hosts, the shared folder mounted
#   scripts/tpu_pod.sh run [FLAGS...]    launch.py on all hosts; again to go on after a preemption
#   scripts/tpu_pod.sh stop              SIGTERM to all: every process saves the same step and ends
#   scripts/tpu_pod.sh delete            give the slice back
set -euo pipefail

NAME=${NAME:-vlm}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-64}                  # 16 hosts of 4 chips
VERSION=${VERSION:-v2-alpha-tpuv5-lite}     # v6e: v2-alpha-tpuv6e; v5p: v2-alpha-tpuv5; v4: tpu-ubuntu2204-base
BUCKET=${BUCKET:?BUCKET=name-of-your-bucket: where checkpoints and logs go}
REPOSITORY=${REPOSITORY:?REPOSITORY=URL to git clone from}
SPOT=${SPOT:-}
SHARED=/mnt/$BUCKET

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:-}" in
  create)
    # shellcheck disable=SC2086  # an empty SPOT is no argument
    gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
      --accelerator-type="$TYPE" --runtime-version="$VERSION" $SPOT
    ;;
  wait)
    until gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
      --format="value(state.state)" | tee /dev/stderr | grep -q '^ACTIVE$'; do sleep 30; done
    ;;
  install)
    everywhere "set -e
      test -d vlm_jax || git clone $REPOSITORY vlm_jax
      cd vlm_jax && git pull --ff-only
      python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'
      command -v gcsfuse >/dev/null || { sudo apt-get update && sudo apt-get install -y gcsfuse; }
      sudo mkdir -p $SHARED && sudo chown \$USER $SHARED
      mountpoint -q $SHARED || gcsfuse --implicit-dirs --rename-dir-limit=200000 $BUCKET $SHARED"
    ;;
  run)
    shift
    everywhere "cd vlm_jax && .venv/bin/python launch.py $(printf '%q ' "$@") 2>&1 \
      | tee -a \$HOME/vlm-\$(hostname).log; exit \${PIPESTATUS[0]}"
    ;;
  stop)
    everywhere "pkill -TERM -f '[l]aunch.py' || true"
    ;;
  delete)
    gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
