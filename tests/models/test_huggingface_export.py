"""Hugging Face folders out, and the command line both ways: the same model comes back, a tensor at a time."""

import gc
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from dsmath_jax.data import tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.models.huggingface.__main__ import main
from dsmath_jax.rl.reward_model.model import with_reward_head
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import import_params, read_model, read_params
from dsmath_jax.workdir import UserError, exit_code, read_json, write_json

MEGABYTE = 1 << 20


def random_params(sizes: ModelConfig) -> Any:
    shapes = jax.eval_shape(lambda: initial_params(Decoder(sizes), jax.random.key(0)))
    noise = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: noise.standard_normal(leaf.shape, np.float32), shapes)


def equal(ours: Any, others: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(others)
    jax.tree.map(np.testing.assert_array_equal, ours, others)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    def write(params: Any, sizes: ModelConfig, *rest: Any) -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        huggingface.write(folder, params, sizes, *rest)
        return folder

    return write


class TestFiles:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"tie_word_embeddings": True, "head_dim": 6, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}],
        ids=str,
    )
    def test_what_is_written_is_read_again(
        self, make_model: Callable[..., Decoder], layout: Layout, export: Callable[..., Path], changes: dict
    ) -> None:
        model = make_model(**changes)
        params = random_params(model.config)
        for limit in (10**9, 3000):
            folder = export(params, model.config, "float32", limit)
            sizes = huggingface.read_config(folder, compute_dtype="float32")
            assert sizes == model.config
            equal(import_params(folder, sizes, layout), params)
        assert len(list(folder.glob("*.safetensors"))) > 3

    def test_a_model_is_split_into_files_only_where_it_is_larger(
        self, model: Decoder, export: Callable[..., Path]
    ) -> None:
        params = random_params(model.config)
        size = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
        [whole] = export(params, model.config, "float32", size).glob("*.safetensors")
        assert whole.name == huggingface.SINGLE_FILE
        folder = export(params, model.config, "float32", size - 1)
        files = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
        assert sorted(files) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        index = read_json(folder / huggingface.INDEX_FILE)
        assert index["metadata"]["total_size"] == size
        assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}

    def test_a_tensor_larger_than_a_file_gets_its_own(self, model: Decoder, export: Callable[..., Path]) -> None:
        folder = export(random_params(model.config), model.config, "float32", 1)
        tensors = 3 + 9 * model.config.num_hidden_layers
        assert [len(load_file(file)) for file in folder.glob("*.safetensors")] == [1] * tensors

    def test_bfloat16_is_rounded_to_the_nearest(self, model: Decoder, export: Callable[..., Path]) -> None:
        params = random_params(model.config)
        folder = export(params, model.config)
        weight = load_file(folder / huggingface.SINGLE_FILE)["model.layers.1.mlp.down_proj.weight"]
        assert weight.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(weight, np.asarray(params["layers"]["down"][1]).T.astype(ml_dtypes.bfloat16))

    def test_parameters_that_are_no_language_model(
        self, model: Decoder, export: Callable[..., Path], tmp_path: Path
    ) -> None:
        params = random_params(model.config)
        with pytest.raises(UserError, match=r"not those of a language model \(missing: embedding\)"):
            export(with_reward_head(params, model.config.hidden_size), model.config)
        with pytest.raises(UserError, match="cannot be written as 'int8'"):
            huggingface.write(tmp_path, params, model.config, "int8")

    def test_in_memory_is_one_tensor_and_then_one_shard(self, export: Callable[..., Path], layout: Layout) -> None:
        sizes = ModelConfig(
            vocab_size=16, num_hidden_layers=12, hidden_size=256, num_attention_heads=4, head_dim=64,
            intermediate_size=1024, tie_word_embeddings=True,
            compute_dtype="float32",
        )  # fmt: skip
        params = random_params(sizes)  # 50 MB, a matrix at most 1
        tracemalloc.start()
        folder = export(params, sizes, "float32", 10 * MEGABYTE)
        assert tracemalloc.get_traced_memory()[1] < 3 * MEGABYTE
        gc.collect()
        tracemalloc.reset_peak()
        readers = huggingface.readers(folder, sizes, flatten_dict(params, sep="/"))
        assert readers["layers/up"]().nbytes == 12 * MEGABYTE
        assert tracemalloc.get_traced_memory()[1] < 14 * MEGABYTE
        gc.collect()
        tracemalloc.reset_peak()
        half = readers["layers/up"]((slice(None), slice(0, 64), slice(512, 1024)))
        assert half.nbytes == 1.5 * MEGABYTE
        assert tracemalloc.get_traced_memory()[1] < 2.5 * MEGABYTE
        tracemalloc.stop()


@pytest.fixture
def stories(real_data: Path) -> Path:
    return real_data / "checkpoints" / "stories260k_hf"


def run(*arguments: str | Path) -> int:
    return exit_code(lambda: main([str(argument) for argument in arguments]))


class TestCommand:
    def test_a_real_model_goes_in_and_out_and_in(
        self, stories: Path, tmp_path: Path, layout: Layout, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / ".stage.77.tmp").mkdir()  # as a killed import leaves it
        assert run("import", f"--from={stories}", f"--to={tmp_path / 'stage'}") == 0
        assert "stage: 260,032 parameters in float32, a tokenizer of 512 ids" in capsys.readouterr().out
        golden = read_json(stories / "golden_greedy.json")["greedy_tokens"][:64]
        model = read_model(tmp_path / "stage", layout)
        params = read_params(tmp_path / "stage", model.config, layout)
        sampler = Sampler(
            Decoder(ModelConfig(**vars(model.config) | {"compute_dtype": "float32"})), layout, [], 63, decode_slots=1
        )
        [[completion]] = sampler.generate(params, [golden[:1]], SamplingParams(temperature=0.0))
        assert golden[:1] + completion.tokens == golden

        assert run("export", f"--from={tmp_path / 'stage'}", f"--to={tmp_path / 'hf'}", "--dtype=float32") == 0
        theirs, ours = (load_file(folder / huggingface.SINGLE_FILE) for folder in (stories, tmp_path / "hf"))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor)
        assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == (stories / "tokenizer.model").read_bytes()
        assert tokenizer.load(tmp_path / "hf").stop_ids == (2,)
        config = read_json(tmp_path / "hf" / "config.json")
        assert (config["bos_token_id"], config["eos_token_id"], config["num_key_value_heads"]) == (1, 2, 4)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "stage"]

    def test_a_whole_run_goes_out_and_in(self, stories: Path, tmp_path: Path) -> None:
        for name in ("sft", "rl"):
            assert run("import", f"--from={stories}", f"--to={tmp_path / 'run' / name}") == 0
        (tmp_path / "run" / "reward_model").mkdir()
        assert run("export", f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'hf'}", "--dtype=float32") == 0
        assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["rl", "sft"]
        assert run("import", f"--from={tmp_path / 'hf'}", f"--to={tmp_path / 'again'}") == 0
        for name in ("sft", "rl"):
            assert read_json(tmp_path / "again" / name / "model.json") == read_json(
                tmp_path / "run" / name / "model.json"
            )
            original = load_file(stories / huggingface.SINGLE_FILE)
            exported = load_file(tmp_path / "hf" / name / huggingface.SINGLE_FILE)
            for tensor in original:
                np.testing.assert_array_equal(exported[tensor], original[tensor])

    def test_a_run_stage_takes_the_tokenizer_of_its_run_and_says_where_it_stops(
        self, stories: Path, tmp_path: Path, layout: Layout
    ) -> None:
        """Parameters kept in bfloat16 are read as float32 where a stage is read."""
        assert run("import", f"--from={stories}", f"--to={tmp_path / 'sft'}", "--dtype=bfloat16") == 0
        (tmp_path / "tokenizer").mkdir()
        for name in ("tokenizer.model", "generation_config.json"):
            (tmp_path / "sft" / name).rename(tmp_path / "tokenizer" / name)
        write_json(tmp_path / "tokenizer" / "generation_config.json", {"eos_token_id": [2, 13]})
        assert run("export", f"--from={tmp_path / 'sft'}", f"--to={tmp_path / 'hf'}") == 0
        assert tokenizer.load(tmp_path / "hf").stop_ids == (2, 13)
        assert read_json(tmp_path / "hf" / "generation_config.json")["eos_token_id"] == [2, 13]
        tensors = load_file(tmp_path / "hf" / huggingface.SINGLE_FILE)
        original = load_file(stories / huggingface.SINGLE_FILE)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, original[name].astype(ml_dtypes.bfloat16))
        params = read_params(tmp_path / "sft", read_model(tmp_path / "sft", layout).config, layout)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}

    def test_a_model_without_a_tokenizer(self, real_data: Path, tmp_path: Path) -> None:
        source = real_data / "checkpoints" / "tiny_llama_hf"
        assert run("import", f"--from={source}", f"--to={tmp_path / 'stage'}", "--dtype=bfloat16") == 0
        assert run("export", f"--from={tmp_path / 'stage'}", f"--to={tmp_path / 'hf'}") == 0
        theirs, ours = (load_file(folder / huggingface.SINGLE_FILE) for folder in (source, tmp_path / "hf"))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor)

    def test_invalid_arguments_are_refused(
        self, stories: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def error(*arguments: str | Path) -> str:
            assert run(*arguments) == 2
            return capsys.readouterr().err

        (tmp_path / "there").mkdir()
        assert "there exists already" in error("import", f"--from={stories}", f"--to={tmp_path / 'there'}")
        assert "has no model.json" in error("export", f"--from={stories}", f"--to={tmp_path / 'hf'}")
        assert "config.json is missing" in error("import", f"--from={tmp_path}", f"--to={tmp_path / 'stage'}")
        assert run("import", f"--from={stories}", f"--to={tmp_path / 'stage'}") == 0
        other = real_data / "tokenizers" / "llama32k.model"
        said = error("export", f"--from={tmp_path / 'stage'}", f"--to={tmp_path / 'hf'}", f"--tokenizer={other}")
        assert "The tokenizer has ids up to 31,999" in said
        assert "a vocabulary of 512" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["stage", "there"]


MEASURE = """
import sys
from pathlib import Path
import jax, numpy as np
from dsmath_jax.models.huggingface import read_config
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.model_files import import_params

def memory(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) << 10

layout, folder = Layout(make_mesh(MeshSettings(fsdp=4, tensor=2))), Path(sys.argv[1])
jax.block_until_ready([jax.device_put(np.ones(8), device) for device in jax.devices()])
before = memory("VmRSS")
params = import_params(folder, read_config(folder), layout)
shards = [sum(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(params)]
print(memory("VmHWM") - before - sum(shards), max(shards))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_import_needs_less_than_one_parameter_more_than_the_arrays(export: Callable[..., Path]) -> None:
    """Peak resident memory of a process with 8 devices that reads 0.5 GB in several files into float32 shards."""
    sizes = ModelConfig(
        vocab_size=1000,
        num_hidden_layers=12,
        hidden_size=1024,
        num_attention_heads=16,
        head_dim=64,
        intermediate_size=5632,
    )
    folder = export(random_params(sizes), sizes, "bfloat16", 100 * MEGABYTE)
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True,
        env=environment, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    above, leaf = map(int, done.stdout.split())
    assert leaf > 250 * MEGABYTE
    assert above < leaf
