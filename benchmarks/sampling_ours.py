"""This project's side of `benchmarks.sampling`.

    python -m benchmarks.sampling_ours FOLDER

FOLDER holds `task.json`, and for the peers gets `hf/`, the random weights that all sides have, and `prompts.json`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import turns
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import initial_params
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import build_model
from dsmath_jax.workdir import read_json, write_json

GREEDY = 8  # tokens by which the sides are compared
# Bytes per second that a device's memory delivers, from the vendor's data sheets.
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA A100-SXM4-80GB": 2.039e12}


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """The sampler as training uses it, warmed up by one turn."""
    task = read_json(folder / "task.json")
    config, layout = ModelConfig(**task["model"]), Layout(make_mesh())
    model = build_model(config, layout)
    params = jax.jit(lambda: initial_params(model, jax.random.key(0)))()
    first = 2 + len(task["stop_ids"])  # 0 is a peer's padding, 1 its BOS
    noise = np.random.default_rng(0)
    shape = (task["prompts"], task["prompt_tokens"] - 1)
    prompts = [[1, *row] for row in noise.integers(first, config.vocab_size, shape).tolist()]
    if task["peer"]:
        (folder / "hf").mkdir()
        huggingface.write(folder / "hf", params, config, "float32")
        write_json(folder / "prompts.json", prompts)
    sampler = Sampler(model, layout, task["stop_ids"], task["new_tokens"], task["rows"])
    kind = jax.devices()[0].device_kind
    width = jax.numpy.dtype(config.compute_dtype).itemsize
    weights = width * sum(leaf.size for leaf in jax.tree.leaves(params))
    per_token = 2 * width * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    number = 0

    def turn() -> dict:
        nonlocal number
        number += 1
        groups = list(sampler.generate(params, prompts, SamplingParams(samples=task["group"], seed=number)))
        lengths = [len(completion.tokens) for group in groups for completion in group]
        steps = sum(lengths) / task["rows"]
        seen = sum(n * (n + 1) / 2 for n in lengths) + sum(lengths) * task["prompt_tokens"] / task["group"]
        return {"tokens": sum(lengths), "bytes": steps * weights + seen * per_token}

    def timed() -> dict:
        start = time.perf_counter()
        found = turn()
        bandwidth = BANDWIDTH.get(kind)
        share = {"roofline": found["bytes"] / (time.perf_counter() - start) / bandwidth} if bandwidth else {}
        return {"tokens": found["tokens"]} | share

    timed()
    greedy = Sampler(model, layout, [], GREEDY, 4).generate(params, prompts[:4], SamplingParams(temperature=0.0))
    ready = {"version": f"jax {jax.__version__}", "greedy": [t for [c] in greedy for t in c.tokens]}
    return ready, timed


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
