"""The google-tunix side of `benchmarks.sampling`."""

import importlib.metadata
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as tunix_sampler  # type: ignore[import-not-found]
from tunix.models.llama3 import model as llama  # type: ignore[import-not-found]
from tunix.models.llama3 import params as llama_params

from benchmarks import turns


class Numbers:
    """A tokenizer whose text is the token ids."""

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def pad_id(self) -> int:
        return 0


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Warms up the vanilla sampler by one turn, on batches of as many rows as ours decodes at a time."""
    task = json.loads((folder / "task.json").read_text())
    prompts = [" ".join(map(str, prompt)) for prompt in json.loads((folder / "prompts.json").read_text())]
    sizes = task["model"]
    config = llama.ModelConfig(
        num_layers=sizes["num_hidden_layers"], vocab_size=sizes["vocab_size"], embed_dim=sizes["hidden_size"],
        hidden_dim=sizes["intermediate_size"], num_heads=sizes["num_attention_heads"], head_dim=sizes["head_dim"],
        num_kv_heads=sizes["num_key_value_heads"], rope_theta=int(sizes["rope_theta"]), norm_eps=1e-6,
    )  # fmt: skip
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = llama_params.create_model_from_safe_tensors(str(folder / "hf"), config, mesh, dtype=jnp.float32)
    longest = task["prompt_tokens"] + task["new_tokens"]
    cache = tunix_sampler.CacheConfig(
        longest, sizes["num_hidden_layers"], sizes["num_key_value_heads"], sizes["head_dim"]
    )
    sampler = tunix_sampler.Sampler(model, Numbers(), cache)
    rows = [prompt for prompt in prompts for _ in range(task["group"])]
    never = [sizes["vocab_size"]]
    seed = 0

    def turn() -> dict:
        nonlocal seed
        tokens = 0
        for start in range(0, len(rows), task["rows"]):
            seed += 1
            out = sampler(
                rows[start : start + task["rows"]], task["new_tokens"], max_prompt_length=task["prompt_tokens"],
                eos_tokens=task["stop_ids"] or never, temperature=1.0, top_p=1.0, seed=seed,
            )  # fmt: skip
            for row in out.tokens:
                ends = np.flatnonzero(np.isin(row, task["stop_ids"]))
                # The peer drops the EOS that it has drawn.
                tokens += int(ends[0]) + 1 if len(ends) else min(len(row) + 1, task["new_tokens"])
        return {"tokens": tokens}

    turn()
    greedy = sampler(prompts[:4], 8, max_prompt_length=task["prompt_tokens"], eos_tokens=never)
    version = f"google-tunix {importlib.metadata.version('google-tunix')}"
    return {"version": version, "greedy": [int(token) for row in greedy.tokens for token in row]}, turn
