#!/usr/bin/env bash
# Runs a recipe on every worker of a Cloud TPU slice: sends the committed code, installs it, starts main on all hosts.
# The workdir must be a folder that all workers share. An interrupted run resumes when started again.
set -euo pipefail

usage() {
  cat <<TEXT
usage: launch/tpu_pod.sh --name=NAME --zone=ZONE [--create=TYPE] [--runtime=VERSION] [--dry-run] [--] MAIN_ARGUMENTS...
  launch/tpu_pod.sh --name=pod --zone=us-east5-a --create=v5p-256 -- --config=configs/tiny.py --workdir=/mnt/nfs/tiny
--create makes the slice first, with the TPU software --runtime (default v2-alpha-tpuv5, the one for v5p).
TEXT
}

execute() { "$@"; }
name='' zone='' create='' runtime=v2-alpha-tpuv5
while (($#)); do
  case $1 in
    -h | --help) usage && exit ;;
    --dry-run) execute() { printf '%q ' "$@" && echo; } ;;
    --name=* | --zone=* | --create=* | --runtime=*) option=${1#--} && printf -v "${option%%=*}" '%s' "${1#*=}" ;;
    --) shift && break ;;
    *) break ;;
  esac
  shift
done
[[ $name && $zone && $# -gt 0 ]] || { usage >&2 && exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tpu=(gcloud compute tpus tpu-vm)
on_all() { execute "${tpu[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"; }
[[ -z $create ]] || execute "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$create" --version="$runtime"
execute git archive --format=tar.gz --output=/tmp/dsmath-jax.tar.gz HEAD
execute "${tpu[@]}" scp /tmp/dsmath-jax.tar.gz "$name:" --zone="$zone" --worker=all
# uv brings its own Python 3.12: the images of TPU machines carry an older one.
on_all 'python3 -m pip install --user --quiet uv && mkdir -p dsmath-jax && tar -xzf dsmath-jax.tar.gz -C dsmath-jax && cd dsmath-jax && python3 -m uv venv --allow-existing --seed --python=3.12 && .venv/bin/pip install --quiet -e ".[all,tpu]" -c constraints.txt'
on_all "cd dsmath-jax && .venv/bin/python -m dsmath_jax.main --distributed $(printf '%q ' "$@")"
