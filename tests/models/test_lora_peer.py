"""Beside peft: adapters that we export are loaded by it, and give the logits that they give here."""

import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import huggingface, lora
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from tests.models.test_huggingface_peer import PEER, close, logits_of

pytestmark = pytest.mark.oracle
HAS_PEFT = "import sys; from importlib.util import find_spec; sys.exit(not (find_spec('torch') and find_spec('peft')))"
SIZES: dict[str, Any] = {
    "vocab_size": 61, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 56, "max_position_embeddings": 64, "compute_dtype": "float32",
}  # fmt: skip
# Fields of the model, and of each training: its matrices, rank and alpha.
CASES: dict[str, tuple[dict[str, Any], list[tuple[str, int, float]]]] = {
    "llama": ({}, [("layers/(q|k|v|o|gate|up|down)", 4, 6.0)]),
    "llama, attention alone": ({}, [("layers/[qv]", 3, 3.0)]),
    "llama, two trainings": ({}, [("layers/(q|o|up)", 4, 8.0), ("layers/(q|v|down)", 3, 1.0)]),
    "qwen2, tied": ({"qkv_bias": True, "tie_word_embeddings": True}, [("layers/.*", 2, 4.0)]),
    "gemma2": (
        {
            "norm_placement": "both", "rms_norm_offset": 1.0, "scale_embeddings": True, "tie_word_embeddings": True,
            "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 7,
            "layer_types": ("sliding_attention", "full_attention"),
        },
        [("layers/.*", 3, 3.0)],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Decoder, Any]]:
    """By case: its folder with the base, the adapters and peft's logits, the decoder, and our parameters."""
    if not PEER.is_file() or subprocess.run([PEER, "-c", HAS_PEFT]).returncode:
        pytest.skip("torch and peft are not installed: make peers")
    root, cases = tmp_path_factory.mktemp("peft"), {}
    for number, (name, (fields, trainings)) in enumerate(CASES.items()):
        config, folder, noise = ModelConfig(**SIZES | fields), root / name, np.random.default_rng(number)
        base = params = jax.jit(lambda config=config: initial_params(Decoder(config), jax.random.key(0)))()
        for targets, rank, alpha in trainings:
            shapes = lora.initial_adapters(params, targets, rank, jax.random.key(0))
            adapters = jax.tree.map(lambda x: jnp.asarray(noise.normal(0, 0.2, x.shape), jnp.float32), shapes)  # noqa: B023
            params = lora.combine(params, adapters, alpha / rank)
        for part in ("base", "adapters"):
            (folder / part).mkdir(parents=True)
        huggingface.write(folder / "base", base, config, "float32")
        scale = trainings[0][2] / trainings[0][1] if len(trainings) == 1 else 1.0
        huggingface.write_adapters(folder / "adapters", lora.adapters_of(params), config, str(folder / "base"), scale)
        np.save(folder / "tokens.npy", noise.integers(3, 58, (2, 16)).astype(np.int32))
        cases[name] = folder, Decoder(config), params
    done = subprocess.run(
        [PEER, Path(__file__).with_name("peft_peer.py"), root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "missing adapter keys" not in done.stderr
    return cases


@pytest.mark.parametrize("name", CASES)
def test_peft_loads_the_exported_adapters(made: dict[str, tuple[Path, Decoder, Any]], name: str) -> None:
    folder, model, params = made[name]
    tokens = np.load(folder / "tokens.npy")
    logits = jax.jit(logits_of, static_argnums=0)(model, params, tokens)
    close(logits, np.load(folder / "logits.npy"))
    close(jax.jit(logits_of, static_argnums=0)(model, lora.merge(params), tokens), np.load(folder / "merged.npy"))
    plain = jax.jit(logits_of, static_argnums=0)(model, lora.without_adapters(params), tokens)
    assert np.abs(np.asarray(plain - logits)).max() > 0.1
