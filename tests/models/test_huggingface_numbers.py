"""Imported models compute what the architecture says: a plain NumPy float64 decoder over the files' own tensors."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dsmath_jax.models import huggingface
from dsmath_jax.models.llama import Llama, lm_head
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import write_json

COMMON: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 29, "num_hidden_layers": 2, "hidden_size": 16,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 4, "intermediate_size": 20, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "rope_theta": 10_000.0, "tie_word_embeddings": False, "rope_scaling": None,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "every head its own keys, another theta": {"rope_theta": 300.0},
    "grouped queries, larger heads": {"num_key_value_heads": 2, "head_dim": 6},
    "one key head, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    "linear scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}, "num_key_value_heads": 2},
}
LENGTH = 20


def random_tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes = {"model.embed_tokens": (config["vocab_size"], width), "model.norm": (width,)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": (width,), "post_attention_layernorm": (width,), "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
        }  # fmt: skip
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head"] = (config["vocab_size"], width)
    noise = np.random.default_rng(7)
    return {
        f"{name}.weight": (noise.normal(size=s, scale=s[-1] ** -0.5) if len(s) > 1 else noise.normal(1, 0.1, s)).astype(
            np.float32
        )
        for name, s in shapes.items()
    }


def decode(config: dict[str, Any], tensors: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Logits `[T,V]` of one row of tokens, token by token and head by head, in float64."""
    w = {name.removesuffix(".weight"): tensor.astype(np.float64) for name, tensor in tensors.items()}
    size, group = config["head_dim"], config["num_attention_heads"] // config["num_key_value_heads"]
    factor = (config["rope_scaling"] or {"factor": 1.0})["factor"]
    turns = config["rope_theta"] ** (-np.arange(size // 2) * 2 / size)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[name]

    def turned(x: np.ndarray) -> np.ndarray:
        """Each head's number j of the first half and number j of the second are a complex number, turned by place."""
        pairs = x.reshape(len(x), -1, 2, size // 2)
        numbers = pairs[:, :, 0] + 1j * pairs[:, :, 1]
        numbers *= np.exp(1j * np.arange(len(x))[:, None] / factor * turns)[:, None]
        return np.concatenate([numbers.real, numbers.imag], axis=-1)

    x = w["model.embed_tokens"][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = norm(x, layer + "input_layernorm")
        q, k = (turned(y @ w[f"{layer}self_attn.{name}_proj"].T) for name in "qk")
        v = (y @ w[layer + "self_attn.v_proj"].T).reshape(len(x), -1, size)
        out = np.zeros_like(q)
        for t in range(len(x)):
            for n in range(q.shape[1]):
                scores = k[: t + 1, n // group] @ q[t, n] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[t, n] = weights @ v[: t + 1, n // group] / weights.sum()
        x = x + out.reshape(len(x), -1) @ w[layer + "self_attn.o_proj"].T
        y = norm(x, layer + "post_attention_layernorm")
        gate = y @ w[layer + "mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w[layer + "mlp.up_proj"].T)) @ w[layer + "mlp.down_proj"].T
    return norm(x, "model.norm") @ w.get("lm_head", w["model.embed_tokens"]).T


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_a_plain_decoder(tmp_path: Path, layout: Layout, name: str) -> None:
    config = COMMON | CONFIGS[name]
    tensors = random_tensors(config)
    if name == "grouped queries, larger heads":  # as most checkpoints are kept
        tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    write_json(tmp_path / "config.json", config)
    save_file(tensors, tmp_path / huggingface.SINGLE_FILE)
    sizes = huggingface.read_config(tmp_path, compute_dtype="float32")
    params = import_params(tmp_path, sizes, layout)
    tokens = np.random.default_rng(1).integers(0, config["vocab_size"], LENGTH).astype(np.int32)

    @jax.jit
    def logits(params: Any) -> jax.Array:
        row = (tokens[None], jnp.arange(LENGTH)[None], jnp.ones((1, LENGTH), jnp.int32))
        hidden = Llama(sizes).apply({"params": params}, *row)
        return hidden[0] @ lm_head(params, sizes)

    expected = decode(config, tensors, tokens)
    np.testing.assert_allclose(logits(params), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
