#!/usr/bin/env bash
# Runs a recipe on this machine, on every accelerator that JAX finds; sets the environment up first where it is missing.
set -euo pipefail

usage() {
  cat <<TEXT
usage: launch/local.sh [--dry-run] [--] MAIN_ARGUMENTS...
  launch/local.sh --config=configs/tiny.py --workdir=runs/tiny
Paths are those seen from the repository's root. For a GPU or TPU, install its extra once:
  .venv/bin/pip install -e '.[cuda]' -c constraints.txt
TEXT
}

execute() { "$@"; }
while (($#)); do
  case $1 in
    -h | --help) usage && exit ;;
    --dry-run) execute() { printf '%q ' "$@" && echo; } ;;
    --) shift && break ;;
    *) break ;;
  esac
  shift
done
(($#)) || { usage >&2 && exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
execute make install
execute .venv/bin/python -m dsmath_jax.main "$@"
