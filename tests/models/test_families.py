"""Every family's decoder packs, samples with a cache, rematerializes, shards and is exported as LLaMA's is."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, lm_head, output_logits
from dsmath_jax.models.huggingface.families import FAMILIES, architecture_of
from dsmath_jax.rl.reward_model.model import token_scores, with_reward_head
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import RULES, Layout, path_name
from dsmath_jax.training.model_files import import_params, read_model_config, write_config
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.training.optimizer import decay_mask
from dsmath_jax.workdir import UserError, read_json, write_json

from .hf_configs import CONFIGS, model_config, random_params

# Configs that together have all that differs from LLaMA.
VARIED = ("qwen2, some windows", "qwen3, biases and windows", "olmo2", "gemma2", "gemma3, of transformers 5")
# Of these, the one with most of it: windows in some layers, soft caps, both norms of a block, tied embeddings.
QUICK = "gemma2"
COMPILED = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIED]
LENGTHS = (9, 11)  # of two texts, longer than any window


def forward(config: ModelConfig, params: Any, tokens: Any, positions: Any, segment_ids: Any) -> jax.Array:
    hidden = Decoder(config).apply({"params": params}, tokens, positions, segment_ids)
    return output_logits(hidden, lm_head(params, config), config)


def rows(packed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segment ids of the two texts, in one row or in two."""
    noise, length = np.random.default_rng(3), sum(LENGTHS)
    texts = [noise.integers(0, 29, n) for n in LENGTHS]
    if packed:
        ids = np.repeat([1, 2], LENGTHS)
        return tuple(np.int32(x)[None] for x in (np.concatenate(texts), np.concatenate([*map(range, LENGTHS)]), ids))
    pad = lambda row: np.pad(row, (0, length - len(row)))  # noqa: E731
    parts = (texts, [np.arange(n) for n in LENGTHS], [np.ones(n) for n in LENGTHS])
    return tuple(np.stack([np.int32(pad(row)) for row in part]) for part in parts)


def logits_and_gradient(config: ModelConfig, params: Any, packed: bool) -> tuple[np.ndarray, Any]:
    weight = np.random.default_rng(4).normal(size=(sum(LENGTHS), config.vocab_size))

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = forward(config, params, *rows(packed))
        texts = [logits[0]] if packed else [logits[i, :n] for i, n in enumerate(LENGTHS)]
        return jnp.sum(jnp.concatenate(texts) * weight), jnp.concatenate(texts)

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), gradient


def assert_close(one: Any, other: Any) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5 * np.abs(y).max(), err_msg=path_name(path))


@pytest.mark.parametrize("name", COMPILED)
def test_packed_equals_unpacked(tmp_path: Path, name: str) -> None:
    config = model_config(name, tmp_path)
    params = random_params(config)
    for one, other in zip(*(logits_and_gradient(config, params, packed) for packed in (True, False)), strict=True):
        assert_close(one, other)


@pytest.mark.slow
def test_rematerialization_changes_no_gradient_of_alternating_layers(tmp_path: Path) -> None:
    config = model_config("gemma2", tmp_path)
    params = random_params(config)
    expected, *others = (
        logits_and_gradient(dataclasses.replace(config, remat=policy), params, packed=True)[1]
        for policy in ("none", "minimal", "full")
    )
    for found in others:
        assert_close(found, expected)


@pytest.mark.parametrize("name", [pytest.param("mistral, window", marks=pytest.mark.slow), *COMPILED])
def test_decoding_with_a_cache_equals_the_full_forward_pass(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Prompts and completions that are longer than the window, in rings that grow and wrap; and scored as trained."""
    monkeypatch.setattr(scheduler, "MIN_CACHE_LENGTH", 4)
    config = model_config(name, tmp_path)
    model, params = Decoder(config), random_params(config)
    prompts = [[1, 7, 3, 9, 4, 4, 8, 20], [1, 9], [1, 13, 5]]
    sampler = Sampler(model, layout, [2], 12, decode_slots=4, chunk=3)

    @jax.jit
    def logprobs(row: np.ndarray) -> tuple[jax.Array, jax.Array]:
        inputs = {"tokens": row[None, :-1], "positions": jnp.arange(23)[None], "segment_ids": jnp.ones((1, 23), int)}
        logits = forward(config, params, **inputs)
        plain = jnp.take_along_axis(jax.nn.log_softmax(logits / 0.9), row[None, 1:, None], axis=-1)
        return plain[0, :, 0], batch_logprobs(model, params, inputs | {"targets": row[None, 1:]}, 0.9)[0][0]

    lengths = set()
    for group in sampler.generate(params, prompts, SamplingParams(samples=3, seed=1, temperature=0.9)):
        for completion in group:
            prompt = prompts[completion.prompt]
            row = np.zeros(24, np.int32)
            text = prompt + completion.tokens
            row[: len(text)] = text
            lengths.add(len(completion.tokens))
            for expected in logprobs(row):
                expected = expected[len(prompt) - 1 : len(text) - 1]
                np.testing.assert_allclose(completion.logprobs, expected, atol=5e-5)
    assert max(lengths) == 12


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_exported_is_read_again(tmp_path: Path, layout: Layout, name: str) -> None:
    config = model_config(name, tmp_path)
    params = random_params(config)
    folder = tmp_path / "exported"
    folder.mkdir()
    huggingface.write(folder, params, config, "float32", 3000)
    written = read_json(folder / "config.json")
    for spelling in ({}, {"rope_parameters": None}):  # transformers 5, and 4
        write_json(folder / "config.json", written | spelling)
        assert huggingface.read_config(folder, "float32") == config
    again = import_params(folder, config, layout)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    read = [architecture for architecture in CONFIGS[name]["architectures"] if architecture in FAMILIES]
    same = {"mistral": "LlamaForCausalLM"}  # without a window, the same decoder
    assert [same.get(name, *read)] == [architecture_of(config)] == written["architectures"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stage_keeps_the_config(tmp_path: Path, name: str) -> None:
    config = model_config(name, tmp_path)
    write_config(tmp_path, config)
    assert read_model_config(tmp_path) == config


@pytest.mark.parametrize("name", ["llama, biases", *VARIED])
def test_every_parameter_has_one_rule_and_only_matrices_decay(tmp_path: Path, name: str) -> None:
    config = model_config(name, tmp_path)
    params = with_reward_head(random_params(config), config.hidden_size)
    decays = jax.tree_util.tree_leaves_with_path(decay_mask(params))
    for (path, decay), leaf in zip(decays, jax.tree.leaves(params), strict=True):
        matching = [axes for pattern, axes in RULES if re.search(pattern, path_name(path))]
        assert len(matching) == 1, path_name(path)
        assert len(matching[0]) in (leaf.ndim, 0), path_name(path)
        assert decay == (leaf.ndim > (2 if "layers/" in path_name(path) else 1)), path_name(path)


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_a_reward_model_scores_packed_rows_as_others(tmp_path: Path, name: str) -> None:
    config = model_config(name, tmp_path)
    params = with_reward_head(random_params(config), config.hidden_size)
    params["reward"]["kernel"] = np.random.default_rng(5).normal(size=(config.hidden_size, 1))
    names = ("tokens", "positions", "segment_ids")
    score = lambda packed: token_scores(Decoder(config), params, dict(zip(names, rows(packed), strict=True)))  # noqa: E731
    together, apart = (np.asarray(score(packed)) for packed in (True, False))
    expected = np.concatenate([apart[i, :n] for i, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(together[0], expected, atol=2e-5 * np.abs(expected).max())


def test_layers_with_a_window_may_be_stretched_as_the_others_are(tmp_path: Path) -> None:
    """Gemma 3's rotary embedding has a base of its own there; a decoder without one comes back as it was."""
    config = model_config("gemma3, of transformers 5", tmp_path, rope_local_base_freq=0.0)
    huggingface.write(tmp_path, random_params(config), config, "float32")
    assert huggingface.read_config(tmp_path, "float32") == config


def test_a_decoder_of_no_family_is_not_exported(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    config = make_model(qk_norm="head", norm_placement="after").config
    message = r"No architecture of transformers has a decoder with .*norm_placement='after'.*Keep the model in"
    with pytest.raises(UserError, match=message):
        huggingface.write(tmp_path, random_params(config), config)


def test_gemma_is_not_exported_in_float16(tmp_path: Path) -> None:
    config = model_config("gemma2", tmp_path)
    with pytest.raises(UserError, match="Gemma2ForCausalLM cannot be written as 'float16', which its activations"):
        huggingface.write(tmp_path, random_params(config), config, "float16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ("full_attention",)}, r"layer_types has 1 entries; give one for each of the 2 layers\."),
        ({"layer_types": ("chunked_attention",) * 2}, r"layer_types\[0\]|layer_types must be one of"),
        (
            {"layer_types": ("full_attention", "sliding_attention")},
            "sliding_window is 0; give the window of",
        ),
        ({"rope_local_base_freq": 10.0, "rope_scaling": {"rope_type": "yarn"}}, r"rope_local_base_freq is 10\.0; with"),
        (
            {"rope_scaling": {"rope_type": "llama3"}},
            r"rope_scaling\.rope_type 'llama3' needs original_max",
        ),
        ({"norm_placement": "between"}, "norm_placement must be one of 'before', 'after', 'both'; got 'between'"),
    ],
)
def test_fields_that_make_no_decoder(make_model: Callable[..., Decoder], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_model(**changes)


def test_layers_that_are_all_alike_need_no_types(make_model: Callable[..., Decoder]) -> None:
    make = lambda **changes: make_model(**changes).config  # noqa: E731
    assert make(layer_types=("full_attention",) * 2, sliding_window=4) == make()
    assert make(layer_types=("sliding_attention",) * 2, sliding_window=4) == make(sliding_window=4)
    assert make(sliding_window=4).sliding_layers == (True, True)
