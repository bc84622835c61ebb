"""The bounds of `dsmath aot` against measured times, on one CPU whose peak rates are measured in the same run.

    python -m benchmarks.aot_measured --json=aot_measured.json

The rates are those of a large matrix product and of copying an array that no cache holds onto itself. The bounds come
from the optimized HLO of the same programs that are then timed: a train step, and sampling completions of full length.
The tasks take turns, and the medians count. Seconds are CPU seconds of one thread, which other processes change little;
they slow the memory down, though.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import comparison
from benchmarks.train_step import CASES, Case
from dsmath_jax.aot.bound import Bound
from dsmath_jax.aot.program import compile_program
from dsmath_jax.aot.rl import compile_all, sampling_bound, sampling_programs
from dsmath_jax.aot.step import Target
from dsmath_jax.aot.topology import Topology
from dsmath_jax.data.packing import batch_of_rows
from dsmath_jax.hardware import Chip
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import abstract_inputs, next_token_step
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import PretrainSettings
from dsmath_jax.training.step import init_state
from dsmath_jax.workdir import exit_code

MODELS = ("8m", "28m")
SIDE = 2048  # of the matrix product: 17 GFLOP
COPIED = 256 * 2**20  # bytes
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")  # "32768K"
DECODING = RLSettings(prompts_per_step=4, group_size=16, max_prompt_tokens=64, max_new_tokens=128, steps=1)


class Task(NamedTuple):
    """Something to time, with what its bound is made of."""

    flops: float
    traffic: float
    run: Callable[[], Any]  # returns arrays


def tasks(names: Sequence[str]) -> dict[str, Task]:
    """Returns the rooflines' tasks, and a train step and a rollout of each model."""
    found = {"product": product(SIDE), "copy": copy(COPIED)}
    for name in names:
        target = target_of(CASES[name].model)
        found |= {f"{name}, train step": train_step(CASES[name], target), f"{name}, sampling": sampling(target)}
    return found


def product(side: int) -> Task:
    """Returns a product of two square matrices in float32."""
    x = jnp.ones((side, side), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    return Task(2.0 * side**3, 0.0, lambda: multiply(x, x))


def copy(size: int) -> Task:
    """Returns a copy of an array onto itself: it is read and written, without the page faults of a new one."""
    x = jnp.zeros(size // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> Any:
        nonlocal x
        x = add(x)
        return x

    return Task(0.0, 2.0 * x.nbytes, run)


def target_of(model: dict) -> Target:
    """Returns this CPU as a target whose rates are 1 per second: the seconds of a bound are FLOPs and bytes."""
    size = CACHE.read_text().strip().removesuffix("K")
    chip = Chip(
        device_kinds=("cpu",), peak_flops=1.0, memory=0, memory_bandwidth=1.0, link_bandwidth=1.0,
        network_bandwidth=1.0, cache=1024 * int(size), source="measured",
    )  # fmt: skip
    layout = Layout(make_mesh(devices=jax.devices()[:1]))
    return Target(Topology("cpu:1", jax.devices()[:1], chip), layout, build_model(ModelConfig(**model), layout))


def train_step(case: Case, target: Target) -> Task:
    """Returns a train step of next-token training."""
    settings = PretrainSettings(sequence_length=case.length, batch_size=case.rows, steps=10_000, warmup_steps=1)
    abstract = abstract_inputs(settings, target.model, target.layout)
    step = next_token_step(settings, target.model, target.layout, abstract[0])
    found = compile_program(lambda: step.lower(*abstract), target.topology, target.layout)
    tokens = np.random.default_rng(0).integers(target.model.config.vocab_size, size=(case.rows, case.length + 1))
    rows = np.stack([tokens, np.ones_like(tokens), np.ones_like(tokens)], 1).astype(np.int32)
    batch = target.layout.put_batch(batch_of_rows(rows))
    state = init_state(lambda: initial_params(target.model, jax.random.key(0)), make_optimizer(settings), target.layout)

    def run() -> Any:
        nonlocal state
        state, scalars = step(state, batch)
        return scalars

    return Task(found["flops"], found["traffic"], run)


def sampling(target: Target) -> Task:
    """Returns a rollout without stop tokens, with a decode slot for each completion."""
    params = jax.jit(lambda: initial_params(target.model, jax.random.key(0)))()
    programs = compile_all(sampling_programs(DECODING, target)[0], target)
    bound: Bound = sampling_bound(programs, DECODING)
    sampler = Sampler(target.model, target.layout, [], DECODING.max_new_tokens, DECODING.num_decode_slots)
    prompts = np.random.default_rng(0).integers(
        2, target.model.config.vocab_size, (DECODING.prompts_per_step, DECODING.max_prompt_tokens)
    )
    rollout = SamplingParams(samples=DECODING.group_size)
    return Task(bound.compute, bound.memory, lambda: list(sampler.generate(params, prompts.tolist(), rollout)))


def measure(timed: dict[str, Task], repetitions: int) -> dict[str, Any]:
    """Returns the peak rates, and for each task the bound, the median seconds and their ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repetitions + 1):  # the first compiles
        for name, task in timed.items():
            start = time.process_time()
            jax.block_until_ready(task.run())
            if turn:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    flops = timed["product"].flops / medians["product"]
    bandwidth = timed["copy"].traffic / medians["copy"]
    results = {}
    for name, task in timed.items():
        bound = max(task.flops / flops, task.traffic / bandwidth)
        limit = "compute" if bound == task.flops / flops else "memory"
        results[name] = {
            "flops": task.flops, "traffic": task.traffic, "bound": bound, "limit": limit, "seconds": medians[name],
            "ratio": medians[name] / bound,
        }  # fmt: skip
    return {"peak_flops": flops, "memory_bandwidth": bandwidth, "tasks": results}


def table(result: dict[str, Any]) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            name, f"{each['flops'] / 1e9:,.1f}", f"{each['traffic'] / 1e9:,.2f}", f"{each['bound']:.3f}", each["limit"],
            f"{each['seconds']:.3f}", f"{each['ratio']:.2f}",
        ]
        for name, each in result["tasks"].items()
    ]  # fmt: skip
    titles = "task | GFLOP | GB moved | at least, s | limit | measured, s | measured / bound"
    rates = f"{result['peak_flops'] / 1e9:.0f} GFLOP/s, {result['memory_bandwidth'] / 1e9:.1f} GB/s"
    return f"{comparison.table(titles, rows)}\n\nPeaks of one thread: {rates}."


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "repetitions", "json")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(CASES)}")
    options = parser.parse_args(argv)
    names = comparison.choose("models", options.models, CASES)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    result = measure(tasks(names), options.repetitions)
    comparison.publish(options, result, table(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
