"""What several test files share: a tiny decoder in float32, a layout on one device, the real data if there is some."""

import gc
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Subprocesses import the package often, so its bytecode is kept even where the environment says otherwise.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
# Tests compile much and compute little: code that is not optimized computes the same and is compiled in half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else ""),
)
# Programs are compiled once for all tests and their subprocesses, and not again the next time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
from hypothesis import HealthCheck, settings

from dsmath_jax.data import chat_template, tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import export_params
from tests.browser import browser
from tests.web_server import hub, server

__all__ = ["browser", "hub", "server"]  # fixtures

# libtpu, which the dev extra brings, looks for TPUs where nobody says which platform is meant, and complains at times.
if not any(next(Path("/dev").glob(name), None) for name in ("nvidia*", "accel*", "vfio")):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])

# What is traced is kept: the collector would look through it again and again.
gc.set_threshold(20_000, 20, 20)

# Tests assert no wall-clock time: an example that compiles, or that a busy machine holds up, is no failure.
settings.register_profile("dsmath", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dsmath")

SIZES = {
    "vocab_size": 23, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 64, "compute_dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="session")
def layout() -> Layout:
    return Layout(make_mesh())


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Decoder]:
    """The tiny decoder (grouped queries), with some of its sizes changed."""
    return lambda **changes: Decoder(ModelConfig(**SIZES | changes))


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Decoder]) -> Decoder:
    return make_model()


@pytest.fixture(scope="session")
def params(model: Decoder) -> Any:
    """Parameters of `model`. Its embedding is scaled up, so that the context matters to its logits."""
    embedding = jax.random.normal(jax.random.key(2), (model.config.vocab_size, model.config.hidden_size))
    return jax.jit(lambda: initial_params(model, jax.random.key(1)))() | {"embedding": embedding}


@pytest.fixture(scope="session")
def checkpoint_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer and a chat template in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = [f"What is {n} + {n}? The answer is {2 * n}." for n in range(100)]
    tokenizer.train_sentencepiece(texts, folder / "tokenizer.model", 300, ["<think>", "</think>"])
    config = ModelConfig(
        vocab_size=300, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, head_dim=8, intermediate_size=24,
        max_position_embeddings=256, compute_dtype="float32",
    )  # fmt: skip
    params = jax.jit(lambda: initial_params(Decoder(config), jax.random.key(0)))()
    chat_template.write(folder, chat_template.DEEPSEEK_MATH)
    export_params(folder / "hf", config, params, folder / "tokenizer.model", "float32")
    return folder / "hf"


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("DSMATH_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}; set DSMATH_DATA")
    return folder
