#!/usr/bin/env bash
# Makes this machine the head or a worker of a Ray cluster, for mining a corpus on many machines; runs until stopped.
# All machines see the repository, the data and the workdir under the same paths (a shared file system).
set -euo pipefail

usage() {
  cat <<TEXT
usage: launch/ray_cluster.sh --head[=PORT] | --worker=HEAD:PORT [--dry-run] [--] [RAY_START_OPTIONS...]
  launch/ray_cluster.sh --head                      on one machine (port 6379)
  launch/ray_cluster.sh --worker=10.0.0.1:6379      on each of the others, at any time
Then on the head: launch/local.sh --config=configs/corpus.py --workdir=/shared/run --config.corpus.ray_address=auto
A worker may die or leave: its work is done again elsewhere. Only trusted machines may reach the port: whoever does can
run anything there.
TEXT
}

execute() { "$@"; }
role=()
while (($#)); do
  case $1 in
    -h | --help) usage && exit ;;
    --dry-run) execute() { printf '%q ' "$@" && echo; } ;;
    --head) role=(--head --port=6379) ;;
    --head=*) role=(--head --port="${1#*=}") ;;
    --worker=*) role=(--address="${1#*=}") ;;
    --) shift && break ;;
    *) break ;;
  esac
  shift
done
((${#role[@]})) || { usage >&2 && exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x .venv/bin/ray ]] || execute make install
[[ -x .venv/bin/ray ]] || execute .venv/bin/pip install -e '.[cluster]' -c constraints.txt
execute .venv/bin/ray start "${role[@]}" --block --disable-usage-stats "$@"
