"""The one entry point: `python -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny`."""

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from dsmath_jax import runner
from dsmath_jax.report.report import summary_table
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import UserError, lock, read_json

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe: configs/NAME.py or configs/NAME.py:ARGUMENT.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps its files: a local or shared folder.")
NAMES = flags.DEFINE_list("stages", None, "Stages to run; all by default.")
OVERWRITE = flags.DEFINE_list("overwrite", [], "Stages to redo, with the stages that read them.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts: call jax.distributed.initialize().")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Unknown argument '{argv[1]}'; flags begin with --.")
    for flag in (CONFIG, WORKDIR):
        if flag.value is None:
            raise UserError(f"--{flag.name} is missing; see python -m dsmath_jax.main --help.")
    known = [stage.name for stage in STAGES]
    for name in [*(NAMES.value or []), *OVERWRITE.value]:
        if name not in known:
            raise UserError(f"Unknown stage '{name}'{_nearest(name, known)}; the stages are {', '.join(known)}.")
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    workdir = Path(WORKDIR.value)
    first = jax.process_index() == 0
    with lock(workdir) if first else contextlib.nullcontext():
        runner.run(STAGES, CONFIG.value, workdir, NAMES.value or known, OVERWRITE.value)
    if first and (workdir / "report" / "report.json").is_file():
        print(summary_table(read_json(workdir / "report" / "report.json")))
        print(f"report: {workdir / 'report' / 'index.html'}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f", did you mean '{near[0]}'?" if near else ""


def parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; what is wrong with them is told in one sentence."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # absl, ml_collections and the config file itself each raise kinds of their own
        raise UserError(str(error)) from error


def run() -> None:
    """Runs `main`; the user's errors and a full disk end with one sentence and exit code 2."""
    try:
        app.run(main, flags_parser=parse)
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sentence = f"{error.filename or 'A file'} cannot be written: {os.strerror(error.errno)}; free space and run again, the run goes on."
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    run()
