"""Sizes by name, and the sentences about sizes that make no decoder."""

from typing import Any

import jax
import pytest

from dsmath_jax.models import llama
from dsmath_jax.models.config import CHOICES, ModelConfig
from dsmath_jax.models.sizes import SIZES, sizes
from dsmath_jax.workdir import UserError

SMALL: dict[str, Any] = {
    "vocab_size": 7, "layers": 1, "width": 8, "heads": 4, "kv_heads": 2, "head_size": 4, "hidden": 8,
}  # fmt: skip


def parameters(config: ModelConfig) -> int:
    shapes = jax.eval_shape(lambda: llama.initial_params(llama.Llama(config), jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "billions"), [("1b3", 1.634), ("7b", 6.910)])
def test_the_papers_sizes(name: str, billions: float) -> None:
    config = ModelConfig(**sizes(name))
    assert round(parameters(config) / 1e9, 3) == billions
    assert (config.vocab_size, config.context, config.rope_theta) == (102_400, 4096, 10_000.0)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_a_whole_config_once_it_has_a_vocabulary(name: str) -> None:
    config = ModelConfig(**sizes(name, vocab_size=100, kv_heads=2, remat="full"))
    assert (config.vocab_size, config.kv_heads, config.remat) == (100, 2, "full")
    assert sizes(name).keys() == ModelConfig.__dataclass_fields__.keys()


def test_a_size_or_field_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="no model size '8b'; give one of 1m, 134m, 1b3, 7b"):
        sizes("8b")
    with pytest.raises(UserError, match="no field 'widht'"):
        sizes("7b", widht=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads 3 are no multiple of its kv_heads 2"),
        ({"head_size": 3}, "head_size 3 is odd"),
        ({"vocab_size": 0}, "vocab_size is 0; give a whole number above zero"),
        ({"layers": 2.0}, r"layers is 2\.0; give a whole number above zero"),
        ({"rope_scaling": 0.0}, r"rope_scaling is 0\.0; give a number above zero"),
        ({"norm_eps": "1e-6"}, "norm_eps is '1e-6'; give a number above zero"),
        ({"remat": "some"}, "remat is 'some'; give one of none, full, dots, minimal"),
        ({"attention": "flash"}, "attention is 'flash'; give one of auto, xla, splash, cudnn"),
        ({"compute_dtype": "int8"}, "compute_dtype is 'int8'; give one of bfloat16, float32, float64"),
    ],
)
def test_sizes_that_make_no_decoder(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**SMALL | changes)


def test_the_remat_policies_that_a_config_may_name_are_those_of_the_decoder() -> None:
    assert set(CHOICES["remat"]) == set(llama.REMAT)
