"""Sizes by name, and the errors of sizes that make no decoder."""

from typing import Any

import jax
import pytest

from dsmath_jax.models import decoder
from dsmath_jax.models.config import REMAT, ModelConfig, trained_config
from dsmath_jax.models.sizes import SIZES, sizes
from dsmath_jax.settings import build, field_values
from dsmath_jax.workdir import UserError

SMALL: dict[str, Any] = {
    "vocab_size": 7, "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 8,
}  # fmt: skip


def parameters(config: ModelConfig) -> int:
    shapes = jax.eval_shape(lambda: decoder.initial_params(decoder.Decoder(config), jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "billions"), [("1b3", 1.634), ("7b", 6.910)])
def test_the_papers_sizes(name: str, billions: float) -> None:
    config = ModelConfig(**sizes(name))
    assert round(parameters(config) / 1e9, 3) == billions
    assert (config.vocab_size, config.max_position_embeddings, config.rope_theta) == (102_400, 4096, 10_000.0)


@pytest.mark.parametrize(("name", "billions"), [("0.5b", 0.494), ("1.5b", 1.544), ("3b", 3.086)])
def test_the_sizes_of_qwen(name: str, billions: float) -> None:
    assert round(parameters(ModelConfig(**sizes(f"qwen2.5-{name}"))) / 1e9, 3) == billions


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_a_whole_config_once_it_has_a_vocabulary(name: str) -> None:
    config = ModelConfig(**sizes(name, vocab_size=100, num_key_value_heads=2, remat="full"))
    assert (config.vocab_size, config.num_key_value_heads, config.remat) == (100, 2, "full")


def test_an_unknown_size_or_field_is_refused() -> None:
    with pytest.raises(UserError, match="no model size '8b'; give one of 1m, 134m, 1b3, 7b, "):
        sizes("8b")
    with pytest.raises(UserError, match=r"model\.rope_tehta is not a setting \(the nearest is 'rope_theta'\)"):
        build(ModelConfig, sizes("7b", rope_tehta=8.0), "model.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_attention_heads": 3},
            "num_attention_heads is 3; it must be a multiple of num_key_value_heads, which",
        ),
        ({"head_dim": 3}, "head_dim is 3; it must be even"),
        ({"hidden_size": 0}, r"hidden_size is 0; it must be at least 1\."),
        ({"vocab_size": -1}, r"vocab_size is -1; it must be at least 0\."),
        ({"num_hidden_layers": 2.0}, r"num_hidden_layers is 2\.0; it must be of the type int\."),
        ({"rope_scaling": {"factor": 0.0}}, r"rope_scaling\.factor is 0\.0; it must be above 0\."),
        ({"rms_norm_eps": "1e-6"}, r"rms_norm_eps is '1e-6'; it must be of the type float\."),
        ({"remat": "some"}, "remat must be one of 'none', 'full', 'dots', 'minimal'; got 'some'"),
        ({"attention": "flash"}, "attention must be one of 'auto', 'xla', 'splash', 'cudnn'; got 'flash'"),
        ({"compute_dtype": "int8"}, "compute_dtype must be one of 'bfloat16', 'float32', 'float64'; got 'int8'"),
    ],
)
def test_sizes_that_make_no_decoder(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        ModelConfig(**SMALL | changes)


def test_without_key_value_heads_every_query_head_has_its_own() -> None:
    config = ModelConfig(**SMALL | {"num_key_value_heads": 0})
    assert config.num_key_value_heads == 4
    assert config == ModelConfig(**SMALL | {"num_key_value_heads": 4})


def test_a_trained_model_has_a_vocabulary_and_no_unknown_field() -> None:
    assert ModelConfig(**SMALL | {"vocab_size": 0}).vocab_size == 0
    assert trained_config(SMALL, "run/sft/model.json") == ModelConfig(**SMALL)
    with pytest.raises(UserError, match=r"^run/sft/model\.json: vocab_size is 0; give the number of"):
        trained_config(SMALL | {"vocab_size": 0}, "run/sft/model.json")
    with pytest.raises(UserError, match=r"^run/sft/model\.json: hiden_size is not a setting \(the nearest is 'hidd"):
        trained_config(SMALL | {"hiden_size": 8}, "run/sft/model.json")
    with pytest.raises(UserError, match=r"^run/sft/model\.json: head_dim is 3; it must be even"):
        trained_config(SMALL | {"head_dim": 3}, "run/sft/model.json")


def test_every_field_is_described_and_those_of_the_backward_pass_change_no_result() -> None:
    fields = list(field_values(ModelConfig(**SMALL)))
    assert all(field.help for field in fields)
    assert {field.name for field in fields if not field.changes_result} == {"remat", "attention"}


def test_the_remat_policies_that_a_config_may_name_are_those_of_the_decoder() -> None:
    assert set(REMAT) == set(decoder.REMAT)
