"""Beside transformers: random configurations read and written by both give the same logits and gradients."""

import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dsmath_jax.models import huggingface
from dsmath_jax.models.llama import Llama, lm_head
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import read_json, write_json

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
HAS_PEERS = """
import sys
from importlib.util import find_spec
sys.exit(not (find_spec("torch") and find_spec("transformers")))
"""
pytestmark = pytest.mark.slow
COMMON: dict[str, Any] = {
    "vocab_size": 61, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 56, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "every head its own keys": {},
    "grouped queries": {"num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "one key head": {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "tied head": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "heads of another size": {"head_dim": 12, "num_key_value_heads": 2},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}, "head_dim": 16},
    "bfloat16": {"num_key_value_heads": 2},
    "several files": {"tie_word_embeddings": False},
}


def peer(*arguments: str | Path) -> None:
    done = subprocess.run([PEER, Path(__file__).with_name("hf_peer.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, layout: Layout) -> tuple[Llama, Any]:
    sizes = huggingface.read_config(folder, compute_dtype="float32")
    return Llama(sizes), import_params(folder, sizes, layout)


def logits_of(model: Llama, params: Any, tokens: np.ndarray) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
    return hidden @ lm_head(params, model.config)


def close(ours: Any, theirs: np.ndarray) -> None:
    """Within 1e-5 of the largest number."""
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Path:
    """A folder per configuration, made by transformers, exported again by us and loaded again by transformers."""
    if not PEER.is_file() or subprocess.run([PEER, "-c", HAS_PEERS]).returncode:
        pytest.skip("torch and transformers are not installed: make peers")
    root = tmp_path_factory.mktemp("peer")
    for number, (name, changes) in enumerate(CONFIGS.items()):
        asked = {
            "config": COMMON | changes,
            "dtype": "bfloat16" if name == "bfloat16" else "float32",
            "max_shard_size": "20KB" if name == "several files" else "1GB",
        }
        write_json(root / name / "asked.json", asked)
        np.save(root / name / "tokens.npy", np.random.default_rng(number).integers(0, 61, (2, 24)).astype(np.int32))
    peer("make", root)
    for name in CONFIGS:
        model, params = read(root / name / "hf", layout)
        (root / name / "exported").mkdir()
        huggingface.write(root / name / "exported", params, model.config, "float32", 30_000, 1, (2, 3))
    peer("load", root)
    return root


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_equal(made: Path, layout: Layout, name: str) -> None:
    model, params = read(made / name / "hf", layout)
    tokens = np.load(made / name / "tokens.npy")

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = logits_of(model, params, tokens)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
        return -chosen.mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    close(logits, np.load(made / name / "logits.npy"))
    flat = flatten_dict(gradients, sep="/")
    theirs = huggingface.readers(made / name / "gradients", model.config, flat)
    assert theirs.keys() == flat.keys()
    for path, gradient in flat.items():
        close(gradient, theirs[path]())


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_the_exported_model(made: Path, name: str) -> None:
    np.testing.assert_allclose(
        np.load(made / name / "exported.npy"), np.load(made / name / "logits.npy"), rtol=0, atol=1e-6
    )


def test_both_split_files_by_size(made: Path) -> None:
    assert len(list((made / "several files" / "hf").glob("*.safetensors"))) > 3
    index = read_json(made / "several files" / "exported" / huggingface.INDEX_FILE)
    assert len(set(index["weight_map"].values())) > 3
