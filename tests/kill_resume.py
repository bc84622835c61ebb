"""Proves that a run killed at random moments ends as an uninterrupted one: the same files, byte for byte.

    python tests/kill_resume.py --config=configs/tiny.py --kills=10
    python tests/kill_resume.py --small --kills=2

It runs the recipe in `DIR/uninterrupted`, then in `DIR/killed`, where it kills -9 the whole process group at random
moments and starts it again. Two runs of one seed on one machine must leave the same files apart from seconds, event
files and checkpoints kept for resuming; parameters are compared as arrays, since Orbax writes times into its own files.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[1]
LEFT_OUT = re.compile(
    r"^\.lock$|/checkpoints/|/tensorboard/|/(timing\.jsonl|first_start\.json|started\.json)$|\.sha256\.json$"
    r"|^report/index\.html$|^evaluate/\w+/settings\.json$"  # which names a model by files that Orbax wrote
)
# Of a stage; of RL's best policy; of iterative GRPO's rounds and reward models.
PARAMS = re.compile(r"^(\w+(/best|/rounds/\d+(/\w+)?)?/params)/")
STARTED = re.compile(r"^(\w+): started$", re.MULTILINE)
VOLATILE = {"seconds", "results", "inputs"}  # in JSON files; the last two hash files that Orbax writes times into

# Settings that take configs/tiny.py through its stages in seconds. They leave the reward model out: after so few steps
# every completion is incorrect, so that it would have nothing to tell apart.
SMALL = """
--stages=corpus,tokenizer,pretrain,sft,rl,evaluate,report
--config.toy.pages=150 --config.toy.problems.train=60 --config.toy.problems.rl=80 --config.toy.problems.test=20
--config.corpus.iterations=2 --config.corpus.fasttext.dim=8 --config.corpus.fasttext.bucket=1000
--config.tokenizer.vocab_size=1000 --config.model.num_hidden_layers=1 --config.model.hidden_size=16
--config.model.num_attention_heads=2 --config.model.num_key_value_heads=2 --config.model.head_dim=8
--config.model.intermediate_size=32
--config.pretrain.steps=20 --config.pretrain.batch_size=8 --config.pretrain.checkpoint_every=4
--config.sft.steps=20 --config.sft.batch_size=8 --config.sft.checkpoint_every=4
--config.rl.steps=6 --config.rl.prompts_per_step=2 --config.rl.group_size=4 --config.rl.max_new_tokens=8
--config.rl.checkpoint_every=2
--config.rl.eval_data=toy/test --config.rl.eval_problems=4 --config.rl.eval_every=2
--config.evaluate.models=('base','rl') --config.evaluate.problems=4 --config.evaluate.samples=2
--config.evaluate.max_new_tokens=8 --config.evaluate.shots=1
""".split()


def launch(args: argparse.Namespace, workdir: Path, log: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "dsmath_jax.main",
        f"--config={args.config}",
        f"--workdir={workdir}",
        *args.override,
    ]
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def finish(process: subprocess.Popen, log: Path) -> None:
    if process.wait():
        sys.exit(f"the run ended with code {process.returncode}:\n{log.read_text(encoding='utf-8')[-3000:]}")


def stage_seconds(workdir: Path) -> dict[str, float]:
    manifests = {path.parent.name: json.loads(path.read_text()) for path in workdir.glob("*/manifest.json")}
    return {stage: manifest["seconds"] for stage, manifest in manifests.items()}


def run_killed(args: argparse.Namespace, workdir: Path, seconds: dict[str, float], startup: float) -> int:
    """Runs and kills until the recipe is finished; returns how often it was killed.

    Each moment is the first of as many uniform ones as kills are left, over what an uninterrupted run would still need:
    so the moments lie evenly over all stages.
    """
    rng, log = random.Random(args.seed), workdir.with_suffix(".log")
    for kill in range(1, args.kills + 1):
        left = sum(seconds.values()) - sum(seconds[stage] for stage in stage_seconds(workdir))
        moment = startup + left * (1 - rng.random() ** (1 / (args.kills - kill + 1)))
        process = launch(args, workdir, log)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            finish(process, log)
            return kill - 1
        stages = STARTED.findall(log.read_text(encoding="utf-8"))
        print(f"kill {kill} after {moment:.1f} s in {stages[-1] if stages else 'start-up'}", flush=True)
    finish(launch(args, workdir, log), log)
    return args.kills


def contents(workdir: Path) -> dict[str, object]:
    """What two runs must have in common, by path: bytes, JSON without `VOLATILE`, or a dict of arrays as bytes."""
    found: dict[str, object] = {}
    for path in sorted(p for p in workdir.rglob("*") if p.is_file()):
        name = path.relative_to(workdir).as_posix()
        params = PARAMS.match(name)
        if LEFT_OUT.search(name) or (params and params[1] in found):
            continue
        if params:
            arrays = read_params((workdir / params[1]).absolute())
            found[params[1]] = {key: (x.dtype, x.shape, np.asarray(x).tobytes()) for key, x in arrays.items()}
        elif path.suffix == ".json":
            found[name] = without_volatile(json.loads(path.read_text(encoding="utf-8")))
        else:
            found[name] = path.read_bytes()
    return found


def read_params(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a stage's parameters, on whatever devices and processes they were."""
    checkpointer = ocp.StandardCheckpointer()
    like = {name: np.zeros(one.shape, one.dtype) for name, one in checkpointer.metadata(folder).item_metadata.items()}
    return checkpointer.restore(folder, like)


def without_volatile(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dir", type=Path, help="new or empty, for the two workdirs; by default a temporary folder")
    parser.add_argument(
        "--override", action="append", default=[], help="a further argument of the run, such as --config.rl.steps=5"
    )
    parser.add_argument("--small", action="store_true", help="add settings that take seconds")
    args = parser.parse_args()
    args.override = [*(SMALL if args.small else []), *args.override]

    folder = args.dir or Path(tempfile.mkdtemp(prefix="kill_resume."))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; give a new --dir.")
    uninterrupted, killed = folder.absolute() / "uninterrupted", folder.absolute() / "killed"
    began = time.monotonic()
    log = uninterrupted.with_suffix(".log")
    finish(launch(args, uninterrupted, log), log)
    seconds = stage_seconds(uninterrupted)
    whole = time.monotonic() - began
    print(f"uninterrupted: {whole:.1f} s in {uninterrupted}", flush=True)
    kills = run_killed(args, killed, seconds, max(0.0, whole - sum(seconds.values())))

    one, other = contents(uninterrupted), contents(killed)
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    for name in different:
        where = "differs" if name in one and name in other else f"is only in {uninterrupted if name in one else killed}"
        print(f"{name} {where}")
    print(f"{kills} of {args.kills} kills, {len(one)} files compared: {len(different) or 'no'} differences", flush=True)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
