"""Beside transformers: random models of every family, read and written by both, give the same logits and gradients."""

import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dsmath_jax.models import huggingface, rope
from dsmath_jax.models.decoder import Decoder, lm_head, output_logits
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import read_json, write_json

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
HAS_PEERS = """
import sys
from importlib.util import find_spec
sys.exit(not (find_spec("torch") and find_spec("transformers")))
"""
pytestmark = pytest.mark.oracle
COMMON: dict[str, Any] = {
    "vocab_size": 61, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 56, "rms_norm_eps": 1e-6, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
ODD = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 14, "intermediate_size": 37}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
GEMMA = {"sliding_window": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "num_hidden_layers": 4}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
GEMMA3 = GEMMA | {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, grouped": GROUPED | {"rms_norm_eps": 1e-5},
    "llama, one key head": {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "llama, tied": GROUPED | TIED,
    "llama, odd sizes": ODD,
    "llama, linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}, "head_dim": 16},
    "llama, llama3": GROUPED | {"rope_parameters": LLAMA3, "head_dim": 16},
    "llama, llama3, odd sizes, tied": ODD | TIED | {"rope_parameters": LLAMA3 | {"factor": 32.0}},
    "llama, yarn": GROUPED | {"rope_parameters": YARN, "head_dim": 16},
    "llama, dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    "llama, biases": GROUPED | {"attention_bias": True},
    "llama, biases, odd sizes": ODD | TIED | {"attention_bias": True},
    "llama, bfloat16": GROUPED,
    "llama, several files": UNTIED,
    "mistral": GROUPED | {"model_type": "mistral", "sliding_window": None},
    "mistral, window": GROUPED | {"model_type": "mistral", "sliding_window": 7},
    "mistral, window, odd sizes": ODD | {"model_type": "mistral", "sliding_window": 3},
    "qwen2": GROUPED | UNTIED | {"model_type": "qwen2"},
    "qwen2, tied, bfloat16": GROUPED | TIED | {"model_type": "qwen2", "hidden_size": 40, "num_attention_heads": 2},
    "qwen2, yarn, several files": GROUPED | UNTIED | {"model_type": "qwen2", "rope_parameters": YARN},
    "qwen2, window": GROUPED | UNTIED | QWEN_WINDOW | {"model_type": "qwen2"},
    "qwen3": GROUPED | UNTIED | {"model_type": "qwen3", "head_dim": 16},
    "qwen3, odd sizes, tied": ODD | TIED | {"model_type": "qwen3", "attention_bias": True},
    "qwen3, window": ODD | UNTIED | QWEN_WINDOW | {"model_type": "qwen3"},
    "olmo2": GROUPED | UNTIED | {"model_type": "olmo2"},
    "olmo2, tied": TIED | {"model_type": "olmo2", "attention_bias": True, "num_attention_heads": 2} | GROUPED,
    "gemma2": GROUPED | GEMMA | {"model_type": "gemma2"},
    "gemma2, small caps": ODD | GEMMA | {
        "model_type": "gemma2", "attn_logit_softcapping": 1.5, "final_logit_softcapping": 3.0, "head_dim": 10,
        "query_pre_attn_scalar": 24,
    },
    "gemma2, untied, bfloat16": GROUPED | UNTIED | GEMMA | {"model_type": "gemma2", "num_hidden_layers": 3},
    "gemma3_text": GROUPED | GEMMA3 | {"model_type": "gemma3_text"},
    "gemma3_text, odd sizes, several files": ODD | GEMMA3 | {"model_type": "gemma3_text", "head_dim": 18},
    "gemma3_text, linear": GROUPED | GEMMA3 | {
        "model_type": "gemma3_text",
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "gemma3, text and images": {
        "model_type": "gemma3", "text_config": COMMON | GROUPED | GEMMA3 | {"model_type": "gemma3_text"},
        "vision_config": VISION | {"model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4,
        "boi_token_index": 58, "eoi_token_index": 59, "image_token_index": 60,
    },
}  # fmt: skip
NAMES = list(CONFIGS)
# RoPE as in published models: Llama-3.2-1B, DeepSeek-Coder, Qwen2.5 with YaRN, and others.
ROPES: dict[str, tuple[int, dict[str, Any]]] = {
    "llama3": (64, LLAMA3 | {"rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}),
    "llama3, 8B": (128, LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 8192}),
    "linear": (128, {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}),
    "dynamic": (128, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    "yarn": (128, YARN | {"rope_theta": 1e6, "original_max_position_embeddings": 32_768}),
    "yarn, betas": (64, YARN | {"rope_theta": 1.5e5, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}),
    "yarn, factor": (64, YARN | {"rope_theta": 1e4, "attention_factor": 1.3}),
    "yarn, coefficients": (64, YARN | {"rope_theta": 1e4, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.5}),
}


def peer(*arguments: str | Path) -> None:
    done = subprocess.run([PEER, Path(__file__).with_name("hf_peer.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, layout: Layout) -> tuple[Decoder, Any]:
    config = huggingface.read_config(folder, compute_dtype="float32")
    return Decoder(config), import_params(folder, config, layout)


def logits_of(model: Decoder, params: Any, tokens: np.ndarray) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden: Any = model.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
    return output_logits(hidden, lm_head(params, model.config), model.config)


def close(found: Any, expected: np.ndarray, name: str = "") -> None:
    """Within 1e-5 of the largest number."""
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def needs_peers() -> None:
    if not PEER.is_file() or subprocess.run([PEER, "-c", HAS_PEERS]).returncode:
        pytest.skip("torch and transformers are not installed: make peers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Path:
    """A folder per configuration, made by transformers, exported again by us and loaded again by transformers."""
    root = tmp_path_factory.mktemp("peer")
    for number, (name, changes) in enumerate(CONFIGS.items()):
        asked = {
            "config": changes if "text_config" in changes else {"model_type": "llama"} | COMMON | changes,
            "dtype": "bfloat16" if "bfloat16" in name else "float32",
            "max_shard_size": "20KB" if "several files" in name else "1GB",
        }
        write_json(root / name / "asked.json", asked)
        np.save(root / name / "tokens.npy", np.random.default_rng(number).integers(3, 58, (2, 24)).astype(np.int32))
    peer("make", root)
    for name in NAMES:
        model, params = read(root / name / "hf", layout)
        (root / name / "exported").mkdir()
        huggingface.write(root / name / "exported", params, model.config, "float32", 30_000, 1, (2, 3))
    peer("load", root)
    return root


@pytest.mark.parametrize("name", NAMES)
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
    expected = huggingface.readers(made / name / "gradients", model.config, flat)
    assert expected.keys() == flat.keys()
    for path, gradient in flat.items():
        close(gradient, expected[path](), path)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_loads_the_exported_model(made: Path, name: str) -> None:
    np.testing.assert_allclose(
        np.load(made / name / "exported.npy"), np.load(made / name / "logits.npy"), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_equal(made: Path, layout: Layout, name: str) -> None:
    model, params = read(made / name / "hf", layout)
    greedy, tokens = np.load(made / name / "greedy.npy"), np.load(made / name / "tokens.npy")
    length = greedy.shape[1]
    sampler = Sampler(model, layout, [], length, decode_slots=2)
    prompts = tokens[:, : tokens.shape[1] - length].tolist()
    found = [group[0].tokens for group in sampler.generate(params, prompts, SamplingParams(temperature=0.0))]
    assert found == greedy.tolist()


def test_both_split_files_by_size(made: Path) -> None:
    folder = made / "llama, several files"
    assert len(list((folder / "hf").glob("*.safetensors"))) > 3
    index = read_json(folder / "exported" / huggingface.INDEX_FILE)
    assert len(set(index["weight_map"].values())) > 3


def test_frequencies_equal(tmp_path: Path) -> None:
    for name, (head_dim, parameters) in ROPES.items():
        whole = COMMON | {"head_dim": head_dim, "max_position_embeddings": 131_072, "rope_parameters": parameters}
        write_json(
            tmp_path / name / "config.json", whole | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        )
    peer("rope", tmp_path)
    for name in ROPES:
        config, expected = huggingface.read_config(tmp_path / name), np.load(tmp_path / name / "rope.npz")
        np.testing.assert_allclose(rope.frequencies(config), expected["frequencies"], rtol=2e-6, err_msg=name)
        assert rope.attention_scaling(config) == pytest.approx(float(expected["factor"]), rel=1e-7), name
