"""Hugging Face folders in: every tensor lands in its place, parts are read alone, and what does not fit is named."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dsmath_jax.models import huggingface
from dsmath_jax.models.huggingface import INDEX_FILE, SINGLE_FILE, Reader
from dsmath_jax.models.huggingface.names import PARAMS
from dsmath_jax.workdir import UserError, write_json

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 7, "num_hidden_layers": 2, "hidden_size": 4,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 5, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 16, "rope_theta": 1000.0,
}  # fmt: skip
SHAPES = {
    "embedding": (7, 4), "head": (4, 7), "final_norm/scale": (4,), "layers/attention_norm/scale": (2, 4),
    "layers/feed_forward_norm/scale": (2, 4), "layers/q": (2, 4, 3, 2), "layers/k": (2, 4, 1, 2),
    "layers/v": (2, 4, 1, 2), "layers/o": (2, 3, 2, 4), "layers/gate": (2, 4, 5), "layers/up": (2, 4, 5),
    "layers/down": (2, 5, 4),
}  # fmt: skip
LIKE = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in SHAPES.items()}
LAYER = {
    "input_layernorm": (4,), "post_attention_layernorm": (4,), "self_attn.q_proj": (6, 4), "self_attn.k_proj": (2, 4),
    "self_attn.v_proj": (2, 4), "self_attn.o_proj": (4, 6), "mlp.gate_proj": (5, 4), "mlp.up_proj": (5, 4),
    "mlp.down_proj": (4, 5),
}  # fmt: skip
Read = Callable[..., dict[str, np.ndarray]]


def theirs() -> dict[str, np.ndarray]:
    shapes = {"model.embed_tokens": (7, 4), "lm_head": (7, 4), "model.norm": (4,)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()}
    noise = np.random.default_rng(0)
    return {f"{name}.weight": noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], **changes: Any) -> None:
    """A folder of two files, their index, and a config of some changed fields."""
    write_json(folder / "config.json", CONFIG | changes)
    places = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in places if places[name] == file}, folder / file)
    write_json(folder / INDEX_FILE, {"metadata": {}, "weight_map": places})


def read_all(folder: Path) -> dict[str, np.ndarray]:
    sizes = huggingface.read_config(folder, "float32")
    like = {path: leaf for path, leaf in LIKE.items() if path != "head" or not sizes.tie_word_embeddings}
    return {path: reader() for path, reader in huggingface.readers(folder, sizes, like).items()}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(tensors: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
        write(tmp_path, tensors, **changes)
        return read_all(tmp_path)

    return write_and_read


def test_every_matrix_lands_transposed_in_its_layer(read: Read) -> None:
    tensors = theirs()
    ours = read(tensors)
    assert {name: array.shape for name, array in ours.items()} == SHAPES
    x = np.random.default_rng(1).normal(size=4).astype(np.float32)
    q = tensors["model.layers.1.self_attn.q_proj.weight"] @ x
    np.testing.assert_allclose(np.einsum("d,dnh->nh", x, ours["layers/q"][1]).ravel(), q, atol=1e-6)
    heads = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    o = tensors["model.layers.0.self_attn.o_proj.weight"] @ heads.ravel()
    np.testing.assert_allclose(np.einsum("nh,nhd->d", heads, ours["layers/o"][0]), o, atol=1e-6)
    np.testing.assert_array_equal(ours["layers/down"][1], tensors["model.layers.1.mlp.down_proj.weight"].T)


class Recorder:
    """One of their tensors that counts what is read of it."""

    def __init__(self, array: np.ndarray):
        self.array, self.numbers = array, 0

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        part = self.array[index]
        self.numbers += part.size
        return part


@given(data=st.data())
def test_a_part_is_that_of_the_whole_and_only_it_is_read(data: st.DataObject) -> None:
    """Whatever the part. The size of a head, which no mesh splits, is read whole and cut then."""
    path = data.draw(st.sampled_from(sorted(SHAPES)))
    leaf, shape = PARAMS[path], SHAPES[path]
    count = shape[0] if leaf.stacked else 1
    noise = np.random.default_rng(3)
    tensors = [Recorder(noise.normal(size=leaf.tensor_shape(shape))) for _ in range(count)]
    reader = Reader(leaf, tensors, shape, np.dtype(np.float64))
    whole = reader()
    assert sum(tensor.numbers for tensor in tensors) == whole.size
    for tensor in tensors:
        tensor.numbers = 0
    bounds = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in shape]
    split = {"layers/q": 3, "layers/k": 3, "layers/v": 3, "layers/o": 2}.get(path)
    index = tuple(slice(None) if first == last else slice(first, last) for first, last in bounds)
    part = reader(index)
    np.testing.assert_array_equal(part, whole[index])
    fraction = 1 if split is None else shape[split] / max(part.shape[split], 1)
    assert sum(tensor.numbers for tensor in tensors) == part.size * fraction


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_floating_point_type_is_read(read: Read, dtype: Any) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in theirs().items()}
    ours = read(tensors)
    assert {array.dtype for array in ours.values()} == {np.dtype(np.float32)}
    expected = tensors["model.layers.1.mlp.down_proj.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(ours["layers/down"][1], expected)


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    save_file(theirs(), tmp_path / SINGLE_FILE)
    np.testing.assert_array_equal(read_all(tmp_path)["embedding"], theirs()["model.embed_tokens.weight"])


def test_sizes_come_from_the_config(read: Read, tmp_path: Path) -> None:
    read(theirs(), rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    config = huggingface.read_config(tmp_path, compute_dtype="bfloat16", remat="full")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (3, 1, 2)
    assert config.max_position_embeddings == 16
    assert (config.rope_theta, config.rms_norm_eps, config.rope_scaling) == (77.0, 1e-5, 1.0)
    assert (config.compute_dtype, config.remat) == ("bfloat16", "full")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e5},  # as DeepSeek-Coder 1.3B has it
        {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}, "rope_theta": 1e5},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}},
    ],
)
def test_linear_scaling_of_old_and_new_configs(read: Read, tmp_path: Path, changes: dict[str, Any]) -> None:
    read(theirs(), **changes)
    config = huggingface.read_config(tmp_path)
    assert (config.rope_scaling, config.rope_theta) == (4.0, 1e5)


def test_a_tied_head_may_be_there_twice_or_not(read: Read) -> None:
    tensors = theirs()
    assert "head" not in read(tensors, tie_word_embeddings=True)
    del tensors["lm_head.weight"]
    assert "head" not in read(tensors, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"missing: lm_head\.weight\)"):
        read(tensors)


def test_old_rotary_frequencies_are_passed_over(read: Read) -> None:
    read(theirs() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)})


def test_all_that_does_not_fit_is_named_in_one_sentence(read: Read) -> None:
    tensors = theirs()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.bias"] = np.ones(1, np.float32)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]
    tensors["model.layers.0.mlp.up_proj.weight"] = np.ones((5, 4), np.int8)
    with pytest.raises(UserError) as caught:
        read(tensors)
    assert (
        "(missing: model.layers.1.mlp.up_proj.weight; unexpected: model.layers.0.mlp.bias; "
        "shape mismatch: model.norm.weight has (3,) and must have (4,); "
        "quantized: model.layers.0.mlp.up_proj.weight of type I8)"
    ) in str(caught.value)


def test_many_wrong_tensors_are_counted(read: Read) -> None:
    with pytest.raises(UserError, match=r"missing: lm_head\.weight, .*, .*, [\w.]+ and 8 more\)"):
        read({name: tensor for name, tensor in theirs().items() if "layers.0" in name})


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x[..., None]], ids=["cut", "one axis more"])
def test_a_shape_mismatch_is_named(read: Read, name: str, change: Callable[..., Any]) -> None:
    tensors = theirs()
    tensors[name] = change(tensors[name])
    with pytest.raises(UserError, match=f"shape mismatch: {name} has"):
        read(tensors)


def test_a_transposed_matrix_is_refused_though_its_size_fits(read: Read) -> None:
    tensors = theirs()
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    with pytest.raises(UserError, match=r"q_proj\.weight has \(4, 6\) and must have \(6, 4\)"):
        read(tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope type 'llama3' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope type 'linear' has no factor"),
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"num_key_value_heads": 2}, r"config\.json: num_attention_heads is 3; it must be a multiple of num_key"),
        ({"vocab_size": "7"}, r"config\.json: vocab_size is '7'; it must be of the type int"),
        ({"vocab_size": 0}, r"config\.json: vocab_size is 0; give the number of the embedding's rows"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(read: Read, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(theirs(), **changes)


@given(
    field=st.sampled_from([*CONFIG, "rope_parameters", "rope_scaling", "tie_word_embeddings"]),
    value=st.sampled_from([None, -1, 0, 2.5, "4", True, [], {}, {"rope_type": 3}, {"type": "linear", "factor": "2"}]),
)
def test_a_field_of_whatever_kind_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "config.json", CONFIG | {field: value})
    with contextlib.suppress(UserError):
        assert huggingface.read_config(folder).num_hidden_layers == 2


def test_a_config_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        huggingface.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not a JSON object"):
        huggingface.read_config(tmp_path)
    write_json(tmp_path / "config.json", {name: value for name, value in CONFIG.items() if name != "rms_norm_eps"})
    with pytest.raises(UserError, match="the field rms_norm_eps is missing"):
        huggingface.read_config(tmp_path)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    with pytest.raises(UserError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json"):
        read_all(tmp_path)
    write(tmp_path, theirs())
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    write_json(tmp_path / INDEX_FILE, {"weight_map": index["weight_map"] | {"lm_head.weight": "model-3.safetensors"}})
    with pytest.raises(UserError, match=r"names the file model-3\.safetensors, which is missing"):
        read_all(tmp_path)
    other = {"model-1.safetensors": "model-2.safetensors", "model-2.safetensors": "model-1.safetensors"}
    moved = {"lm_head.weight": other[index["weight_map"]["lm_head.weight"]]}
    write_json(tmp_path / INDEX_FILE, {"weight_map": index["weight_map"] | moved})
    with pytest.raises(UserError, match=r"places the tensor lm_head\.weight in model-.*, which does not have it"):
        read_all(tmp_path)
    write_json(tmp_path / INDEX_FILE, {"metadata": {}})
    with pytest.raises(UserError, match=r"the field weight_map, which .*, is missing"):
        read_all(tmp_path)
    file = tmp_path / SINGLE_FILE
    save_file(theirs(), file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        read_all(tmp_path)
