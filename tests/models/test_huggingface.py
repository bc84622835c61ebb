"""Hugging Face folders that do not fit: the message names the file, the field or the tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dsmath_jax.models import huggingface
from dsmath_jax.workdir import UserError, write_json

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 7, "num_hidden_layers": 2, "hidden_size": 4,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 5, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 16, "rope_theta": 1000.0,
}  # fmt: skip
LIKE = {
    "embedding": (7, 4), "head": (4, 7), "final_norm/scale": (4,), "layers/attention_norm/scale": (2, 4),
    "layers/feed_forward_norm/scale": (2, 4), "layers/q": (2, 4, 3, 2), "layers/k": (2, 4, 1, 2),
    "layers/v": (2, 4, 1, 2), "layers/o": (2, 3, 2, 4), "layers/gate": (2, 4, 5), "layers/up": (2, 4, 5),
    "layers/down": (2, 5, 4),
}  # fmt: skip
LAYER = {
    "input_layernorm": (4,), "post_attention_layernorm": (4,), "self_attn.q_proj": (6, 4), "self_attn.k_proj": (2, 4),
    "self_attn.v_proj": (2, 4), "self_attn.o_proj": (4, 6), "mlp.gate_proj": (5, 4), "mlp.up_proj": (5, 4),
    "mlp.down_proj": (4, 5),
}  # fmt: skip


def theirs() -> dict[str, np.ndarray]:
    shapes = {"model.embed_tokens": (7, 4), "lm_head": (7, 4), "model.norm": (4,)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()}
    noise = np.random.default_rng(0)
    return {f"{name}.weight": noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Writes a folder from tensors and changed config fields, and reads it."""

    def write_and_read(tensors: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
        write_json(tmp_path / "config.json", CONFIG | changes)
        names = sorted(tensors)
        save_file({name: tensors[name] for name in names[::2]}, tmp_path / "model-1.safetensors")
        save_file({name: tensors[name] for name in names[1::2]}, tmp_path / "model-2.safetensors")
        config = huggingface.read_config(tmp_path, "float32")
        leaves = LIKE.keys() - ({"head"} if config.tie_embeddings else set())
        like = {name: np.empty(LIKE[name]) for name in leaves}
        return dict(huggingface.read_arrays(tmp_path, config, like))

    return write_and_read


def test_every_matrix_lands_transposed_in_its_layer(read: Callable[..., dict[str, np.ndarray]]) -> None:
    tensors = theirs()
    ours = read(tensors)
    assert {name: array.shape for name, array in ours.items()} == LIKE
    x = np.random.default_rng(1).normal(size=4).astype(np.float32)
    q = tensors["model.layers.1.self_attn.q_proj.weight"] @ x
    np.testing.assert_allclose(np.einsum("d,dnh->nh", x, ours["layers/q"][1]).ravel(), q, atol=1e-6)
    heads = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    o = tensors["model.layers.0.self_attn.o_proj.weight"] @ heads.ravel()
    np.testing.assert_allclose(np.einsum("nh,nhd->d", heads, ours["layers/o"][0]), o, atol=1e-6)
    np.testing.assert_array_equal(ours["layers/down"][1], tensors["model.layers.1.mlp.down_proj.weight"].T)


def test_sizes_come_from_the_config(read: Callable[..., dict[str, np.ndarray]], tmp_path: Path) -> None:
    read(theirs(), rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    config = huggingface.read_config(tmp_path, "bfloat16")
    assert (config.heads, config.kv_heads, config.head_size, config.context) == (3, 1, 2, 16)
    assert (config.rope_theta, config.norm_eps, config.compute_dtype) == (77.0, 1e-5, "bfloat16")


def test_a_tied_head_may_be_there_twice_or_not(read: Callable[..., dict[str, np.ndarray]]) -> None:
    tensors = theirs()
    assert "head" not in read(tensors, tie_word_embeddings=True)
    del tensors["lm_head.weight"]
    assert "head" not in read(tensors, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        read(tensors)


def test_a_missing_tensor_is_named(read: Callable[..., dict[str, np.ndarray]]) -> None:
    tensors = theirs()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        read(tensors)


def test_an_unexpected_tensor_is_named(read: Callable[..., dict[str, np.ndarray]]) -> None:
    tensors = theirs() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}
    read(tensors)
    with pytest.raises(UserError, match=r"model\.layers\.2\.mlp\.bias is unexpected"):
        read(tensors | {"model.layers.2.mlp.bias": np.ones(1, np.float32)})


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x[..., None]], ids=["cut", "one axis more"])
def test_a_misshapen_tensor_is_named(read: Callable[..., Any], name: str, change: Callable[..., Any]) -> None:
    tensors = theirs()
    tensors[name] = change(tensors[name])
    with pytest.raises(UserError, match=f"{name} has shape"):
        read(tensors)


def test_a_transposed_matrix_is_refused_though_its_size_fits(read: Callable[..., Any]) -> None:
    tensors = theirs()
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    with pytest.raises(UserError, match=r"q_proj\.weight has shape \(4, 6\).*\(6, 4\)"):
        read(tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope type 'llama3' is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear' is not supported"),
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(read: Callable[..., Any], changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(theirs(), **changes)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        huggingface.read_config(tmp_path, "float32")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        huggingface.read_config(tmp_path, "float32")
    write_json(tmp_path / "config.json", {name: value for name, value in CONFIG.items() if name != "rms_norm_eps"})
    with pytest.raises(UserError, match="the field rms_norm_eps is missing"):
        huggingface.read_config(tmp_path, "float32")
    write_json(tmp_path / "config.json", CONFIG)
    config = huggingface.read_config(tmp_path, "float32")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        next(huggingface.read_arrays(tmp_path, config, {}))
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        next(huggingface.read_arrays(tmp_path, config, {}))
