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
from dsmath_jax.models.decoder import Decoder, lm_head, output_logits
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import write_json

from .hf_configs import CONFIGS, LENGTH
from .numpy_decoder import decode, random_tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_a_plain_decoder(tmp_path: Path, layout: Layout, name: str) -> None:
    config = CONFIGS[name]
    tensors = random_tensors(config)
    if name == "llama, larger heads":  # as most checkpoints are kept
        tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    write_json(tmp_path / "config.json", config)
    save_file(tensors, tmp_path / huggingface.SINGLE_FILE)
    sizes = huggingface.read_config(tmp_path, compute_dtype="float32")
    params = import_params(tmp_path, sizes, layout)
    tokens = np.random.default_rng(1).integers(0, config["vocab_size"], LENGTH).astype(np.int32)

    @jax.jit
    def logits(params: Any) -> jax.Array:
        row = (tokens[None], jnp.arange(LENGTH)[None], jnp.ones((1, LENGTH), jnp.int32))
        hidden: Any = Decoder(sizes).apply({"params": params}, *row)
        return output_logits(hidden[0], lm_head(params, sizes), sizes)

    expected = decode(config, tensors, tokens)
    np.testing.assert_allclose(logits(params), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
