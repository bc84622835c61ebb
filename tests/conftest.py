"""What several test files share: a tiny decoder in float32, a layout on one device, the real data if there is some."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Tests compile much and compute little: code that is not optimized computes the same and is compiled in half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest
from hypothesis import HealthCheck, settings

from dsmath_jax.data import chat_template, tokenizer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.llama import Llama, initial_params
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import export_params

# libtpu, which the dev extra brings, looks for TPUs where nobody says which platform is meant, and complains at times.
if not any(next(Path("/dev").glob(name), None) for name in ("nvidia*", "accel*", "vfio")):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])

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
def make_model() -> Callable[..., Llama]:
    """The tiny decoder (grouped queries), with some of its sizes changed."""
    return lambda **changes: Llama(ModelConfig(**SIZES | changes))


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Llama]) -> Llama:
    return make_model()


@pytest.fixture(scope="session")
def params(model: Llama) -> Any:
    """Parameters of `model`. Its embedding is scaled up, so that the context matters to its logits."""
    embedding = jax.random.normal(jax.random.key(2), (model.config.vocab_size, model.config.hidden_size))
    return jax.jit(lambda: initial_params(model, jax.random.key(1)))() | {"embedding": embedding}


@pytest.fixture(scope="session")
def checkpoint_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer and a chat template in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = [f"What is {n} + {n}? The answer is {2 * n}." for n in range(100)]
    tokenizer.train_sentencepiece(texts, folder / "tokenizer.model", 300)
    config = ModelConfig(
        vocab_size=300, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, head_dim=8, intermediate_size=24,
        max_position_embeddings=256, compute_dtype="float32",
    )  # fmt: skip
    params = jax.jit(lambda: initial_params(Llama(config), jax.random.key(0)))()
    chat_template.write(folder, chat_template.DEEPSEEK_MATH)
    export_params(folder / "hf", config, params, folder / "tokenizer.model", "float32")
    return folder / "hf"


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what `compiled_once` keeps."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(compiled_programs: Path) -> Iterator[None]:
    """Runs of a stage share what they compile, although each makes its own jitted functions."""
    changed = {
        "jax_compilation_cache_dir": str(compiled_programs),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("DSMATH_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}; set DSMATH_DATA")
    return folder
