#!/usr/bin/env bash
# Train on one host, with one process for each GPU. (A single process uses all GPUs of a host as
# well, and is simpler: python launch.py ... Several keep Python from being the bottleneck.)
#
#   scripts/gpu_host.sh 8 --config=configs/retrieval/siglip.py --workdir=runs/siglip
#
# Ctrl-C or SIGTERM: all processes save the same step and end; the same command goes on from there.
set -euo pipefail

count=${1:?the number of processes, such as 8, comes first}
shift
python=${PYTHON:-.venv/bin/python}
port=${PORT:-$((61440 + $$ % 4096))}   # above those that Linux hands out by itself

processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' INT TERM

for ((number = 0; number < count; number++)); do
  CUDA_VISIBLE_DEVICES=$number "$python" launch.py "$@" \
    --coordinator="127.0.0.1:$port" --processes="$count" --process="$number" &
  processes+=($!)
done

# `wait` returns early when a signal arrives, so it is asked again while the process lives.
code=0
for process in "${processes[@]}"; do
  result=0
  wait "$process" || result=$?
  while kill -0 "$process" 2>/dev/null; do
    result=0
    wait "$process" || result=$?
  done
  ((code)) || code=$result
done
exit "$code"
