"""The decoder: packing, remat policies, rotary embeddings, and a real checkpoint's own greedy text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import huggingface, rope
from dsmath_jax.models.decoder import REMAT, Decoder, initial_params, lm_head, rotary
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout, path_name
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import read_json

DOCUMENTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]


TOGETHER = [(0, 0), (0, 5), (0, 8)]  # row and place where a document begins
APART = [(0, 0), (1, 0), (2, 0)]


def rows_of(places: list[tuple[int, int]], length: int) -> dict[str, np.ndarray]:
    rows = {name: np.zeros((places[-1][0] + 1, length), np.int32) for name in ("tokens", "positions", "segment_ids")}
    for number, (document, (row, at)) in enumerate(zip(DOCUMENTS, places, strict=True), 1):
        place = np.s_[row, at : at + len(document)]
        rows["tokens"][place], rows["segment_ids"][place] = document, number
        rows["positions"][place] = range(len(document))
    return rows


def outputs(model: Decoder, params: Any, tokens: Any, positions: Any, segment_ids: Any) -> jax.Array:
    hidden = model.apply({"params": params}, tokens, positions, segment_ids)
    return hidden @ lm_head(params, model.config)


def gradients(model: Decoder, params: Any, places: list[tuple[int, int]], length: int) -> tuple[jax.Array, Any]:
    """Logits of the documents, one after another, and the gradient of their sum with fixed random weights."""
    weight = np.random.default_rng(0).normal(size=(sum(map(len, DOCUMENTS)), model.config.vocab_size))

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = outputs(model, params, **rows_of(places, length))
        parts = [logits[row, at : at + len(d)] for d, (row, at) in zip(DOCUMENTS, places, strict=True)]
        return jnp.sum(jnp.concatenate(parts) * weight), jnp.concatenate(parts)

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return logits, gradient


def assert_trees_close(one: Any, other: Any, atol: float) -> None:
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, atol=atol, err_msg=path_name(path))


@pytest.fixture(scope="module")
def together(model: Decoder, params: Any) -> tuple[jax.Array, Any]:
    return gradients(model, params, TOGETHER, 17)


def test_packed_equals_unpacked_in_outputs_and_gradients(model: Decoder, params: Any, together: Any) -> None:
    logits, gradient = gradients(model, params, APART, 9)
    np.testing.assert_allclose(together[0], logits, atol=1e-5)
    assert_trees_close(together[1], gradient, atol=3e-5)


@pytest.mark.parametrize("policy", sorted(REMAT.keys() - {"none"}))
def test_remat_changes_no_gradient(make_model: Callable[..., Decoder], params: Any, together: Any, policy: str) -> None:
    _, gradient = gradients(make_model(remat=policy), params, TOGETHER, 17)
    assert np.abs(gradient["layers"]["q"]).max() > 0.1
    assert_trees_close(together[1], gradient, atol=3e-5)


def test_tied_embeddings_have_no_head(make_model: Callable[..., Decoder], params: Any) -> None:
    model = make_model(tie_word_embeddings=True)
    shapes = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    assert "head" not in shapes
    np.testing.assert_array_equal(lm_head(params, model.config), params["embedding"].T)


def test_rotary_scores_depend_on_the_distance_only() -> None:
    noise = np.random.default_rng(0)
    q, k = (jnp.float32(noise.normal(size=(1, 1, 1, 8))) for _ in range(2))

    def score(at: int, other: int) -> float:
        turned = [rotary(x, jnp.array([[place]]), rope.unscaled(100.0, 8)) for x, place in ((q, at), (k, other))]
        return float(jnp.sum(turned[0] * turned[1]))

    np.testing.assert_allclose(rotary(q, jnp.zeros((1, 1), jnp.int32), rope.unscaled(100.0, 8)), q)
    assert score(7, 4) == pytest.approx(score(23, 20), abs=1e-5)
    assert score(7, 4) != pytest.approx(score(7, 5), abs=1e-3)


def test_compute_dtype_is_that_of_activations_not_of_parameters(make_model: Callable[..., Decoder]) -> None:
    model, row = make_model(compute_dtype="bfloat16"), rows_of(TOGETHER, 17)
    params = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    hidden = jax.eval_shape(lambda params: model.apply({"params": params}, **row), params)
    assert hidden.dtype == jnp.bfloat16


def load(folder: Path, layout: Layout) -> tuple[Decoder, Any]:
    config = huggingface.read_config(folder, "float32")
    return Decoder(config), import_params(folder, config, layout)


def test_a_real_checkpoint_generates_its_golden_text(real_data: Path, layout: Layout) -> None:
    """stories260K: grouped queries, tied embeddings; greedy decoding from BOS through prefill and cache."""
    folder = real_data / "checkpoints" / "stories260k_hf"
    golden = read_json(folder / "golden_greedy.json")["greedy_tokens"]
    model, params = load(folder, layout)
    sampler = Sampler(model, layout, [], max_new_tokens=len(golden) - 1, decode_slots=1)
    [[completion]] = sampler.generate(params, [golden[:1]], SamplingParams(temperature=0.0))
    assert golden[:1] + completion.tokens == golden
    assert not completion.finished


def test_an_untied_bfloat16_checkpoint_loads(real_data: Path, layout: Layout) -> None:
    model, params = load(real_data / "checkpoints" / "tiny_llama_hf", layout)
    config = model.config
    assert (config.vocab_size, config.num_hidden_layers, config.num_attention_heads) == (16, 4, 4)
    assert (config.hidden_size, config.intermediate_size) == (128, 344)
    assert not config.tie_word_embeddings
    logits = jax.jit(lambda: outputs(model, params, **rows_of(TOGETHER, 17)))()
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0.1
