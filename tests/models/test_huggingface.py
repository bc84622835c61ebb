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
from safetensors.numpy import load_file, save_file

from dsmath_jax.models import huggingface
from dsmath_jax.models.config import RopeScaling
from dsmath_jax.models.huggingface import INDEX_FILE, SINGLE_FILE, Reader
from dsmath_jax.models.huggingface.names import PARAMS
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params
from dsmath_jax.workdir import UserError, write_json

from .hf_configs import CONFIGS, model_config, random_params

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
    assert (config.rope_theta, config.rms_norm_eps, config.rope_scaling) == (77.0, 1e-5, RopeScaling())
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
    assert (config.rope_scaling, config.rope_theta) == (RopeScaling(rope_type="linear", factor=4.0), 1e5)


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
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope type 'llama3' has no low_freq_factor; add it"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: the rope type 'linear' has no factor; add it"),
        (
            {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}},
            "rope type 'longrope' is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "extrapolation_factor": 1.0}},
            r"config\.json: rope_parameters has the field extrapolation_factor, which is not supported",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": "8"}},
            r"rope_scaling\.factor is '8'; it must be of the",
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 8}},
            "with the rope type 'dynamic', frequencies would depend on the length of a text beyond original_max",
        ),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is not supported; it must be 1\.0"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported; it must be False"),
        ({"hidden_act": "relu"}, r"config\.json: hidden_act must be one of 'silu', 'gelu_pytorch_tanh'; got 'relu'"),
        ({"num_key_value_heads": 2}, r"config\.json: num_attention_heads is 3; it must be a multiple of num_key"),
        ({"vocab_size": "7"}, r"config\.json: vocab_size is '7'; it must be of the type int"),
        ({"vocab_size": 0}, r"config\.json: vocab_size is 0; give the number of the embedding's rows"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(read: Read, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(theirs(), **changes)


# Of config.json files of models that cannot be read, and what is said about each.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "GPT-NeoX": (
        {
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
            "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
            "torch_dtype": "float16", "use_cache": True, "use_parallel_residual": True, "vocab_size": 50304,
        },
        r"architectures is \['GPTNeoXForCausalLM'\]; only LlamaForCausalLM, .*, Gemma3ForConditionalGeneration can be",
    ),
    "Mixtral": (
        {
            "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
            "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
            "tie_word_embeddings": False, "vocab_size": 32000,
        },
        r"architectures is \['MixtralForCausalLM'\]; only",
    ),
    "Phi-3": (
        {
            "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
            "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05, "rope_scaling": {"long_factor": [1.0], "short_factor": [1.0], "type": "longrope"},
            "sliding_window": 262144, "vocab_size": 32064,
        },
        r"architectures is \['Phi3ForCausalLM'\]; only",
    ),
    "Qwen2.5, quantized by GPTQ": (
        {
            "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq", "sym": True},
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        "the field quantization_config says that the tensors are quantized, which is not supported; give the model",
    ),
    "EmbeddingGemma": (
        {
            "architectures": ["Gemma3ForCausalLM"], "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 768, "intermediate_size": 1152, "max_position_embeddings": 2048,
            "model_type": "gemma3_text", "num_attention_heads": 3, "num_hidden_layers": 24, "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
            "rope_theta": 1000000.0, "sliding_window": 257, "use_bidirectional_attention": True, "vocab_size": 262144,
        },
        "use_bidirectional_attention = True is not supported; it must be False",
    ),
    "Gemma 3 without its decoder": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256},
        "the field text_config of Gemma3ForConditionalGeneration is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_of_another_kind_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    config, message = REFUSED[name]
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json: {message}"):
        huggingface.read_config(tmp_path)


def test_a_folder_of_bin_files_says_how_to_convert_it(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"has its tensors in pytorch_model\*\.bin, .*from_pretrained\('.*save_"):
        read_all(tmp_path)


GEMMA3_4B = {  # all that its config.json has of the decoder; the rest is transformers' default
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eos_token_id": [1, 106],
    "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3", "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
}  # fmt: skip


def test_gemma_3_of_text_and_images_is_read_by_its_decoder(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", GEMMA3_4B)
    config = huggingface.read_config(tmp_path)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 256)
    assert (config.vocab_size, config.max_position_embeddings, config.rms_norm_eps) == (262_208, 131_072, 1e-6)
    assert (config.rope_theta, config.rope_local_base_freq, config.sliding_window) == (1e6, 1e4, 1024)
    assert (config.rope_scaling.factor, config.query_pre_attn_scalar, config.tie_word_embeddings) == (8.0, 256, True)
    assert [i for i, sliding in enumerate(config.sliding_layers) if not sliding] == [5, 11, 17, 23, 29]


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_decoder_of_a_model_of_text_and_images_is_read(tmp_path: Path, layout: Layout, prefix: str) -> None:
    config = model_config("gemma3, of transformers 5", tmp_path)
    params = random_params(config)
    huggingface.write(tmp_path, params, config, "float32")
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(3, np.float32)
    tensors["multi_modal_projector.mm_input_projection_weight"] = np.ones((3, 4), np.float32)
    save_file(tensors, tmp_path / SINGLE_FILE)
    text_config = json.loads((tmp_path / "config.json").read_text())
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text_config}
    write_json(tmp_path / "config.json", whole)
    assert huggingface.read_config(tmp_path, "float32") == config
    jax.tree.map(np.testing.assert_array_equal, import_params(tmp_path, config, layout), params)


VALUES: list[Any] = [
    None, -1, 0, 2.5, "4", True, [], ["a"], {}, {"rope_type": 3}, {"rope_type": []}, {"type": "linear", "factor": "2"},
    {"full_attention": 3}, {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {"rope_theta": None}},
]  # fmt: skip
FIELDS = sorted(
    {*CONFIG, "rope_parameters", "rope_scaling", "sliding_window_pattern", "quantization_config"}.union(
        *CONFIGS.values()
    )
)


@given(name=st.sampled_from([*CONFIGS]), field=st.sampled_from(FIELDS), value=st.sampled_from(VALUES))
def test_a_field_of_whatever_kind_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, field: str, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "config.json", CONFIGS[name] | {field: value})
    with contextlib.suppress(UserError):
        assert huggingface.read_config(folder).num_hidden_layers == 3


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
