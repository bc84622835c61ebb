"""Eight devices on any mesh generate the tokens that one generates; abstract inputs are those of a run."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.abstract import StateLengths, abstract_inputs
from dsmath_jax.sampling.compaction import SlotShape
from dsmath_jax.sampling.dtypes import COMPUTE_DTYPE, DecodeDtypes
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.token_sampling import SamplingMode
from dsmath_jax.sampling.turns import TurnLimits
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.model_files import build_model
from tests.devices import cpu_devices
from tests.sampling.test_turns import Scripted

SIZES = {
    "vocab_size": 24, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 64, "compute_dtype": "float32",
}  # fmt: skip
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8], [1, 6]]
INT8 = DecodeDtypes(cache_dtype="int8", decode_weight_dtype="int8")
# Trained on the first mesh, decoded on the second; all slots at once, of which ever fewer are left, and with refill.
MESHES = (
    ({"fsdp": 8}, {"fsdp": 2, "tensor": 4}, 32),
    ({"replica": 2, "fsdp": 1, "context": 2, "tensor": 2}, {"replica": 2, "fsdp": 1, "context": 2, "tensor": 2}, 6),
)


def generate(trained: Layout, layout: Layout, decode_slots: int) -> list[list[list[list[int]]]]:
    """The tokens in float and int8, in turns, and of prompts that begin alike."""
    model = build_model(ModelConfig(**SIZES), layout)
    params = jax.jit(lambda: initial_params(Decoder(model.config), jax.random.key(1)))()
    params["embedding"] *= 50
    params = jax.device_put(params, trained.param_shardings(params))
    floats, int8 = (Sampler(model, layout, [2], 9, decode_slots, dtypes) for dtypes in (COMPUTE_DTYPE, INT8))
    floats.compiles_ahead = layout.mesh.size > 1
    sampling = SamplingParams(samples=8, seed=3, top_p=0.95)
    in_turns = dataclasses.replace(sampling, partner=Scripted(limits=TurnLimits(turns=3, turn_tokens=6, tokens=24)))
    with mock.patch.object(scheduler, "MIN_SHARED", 3):
        shared = [[1, 7, 3, 9, *prompt] for prompt in PROMPTS]
        found = [
            list(sampler.generate(params, prompts, how))
            for sampler, prompts, how in (
                (floats, PROMPTS, sampling), (int8, PROMPTS, sampling), (floats, PROMPTS, in_turns),
                (floats, shared, sampling),
            )
        ]  # fmt: skip
    return [[[completion.tokens for completion in group] for group in groups] for groups in found]


@pytest.mark.slow
def test_eight_devices_generate_what_one_generates(layout: Layout, tmp_path: Path) -> None:
    out = tmp_path / "tokens.json"
    with subprocess.Popen([sys.executable, __file__, out], env=cpu_devices(8)) as process:
        one = generate(layout, layout, 12)
    assert process.returncode == 0
    found = json.loads(out.read_text())
    for case, eight in zip(MESHES, found["tokens"], strict=True):
        assert eight == one, case
    assert "f32[2,4,9,4]" in found["take_rows"], "each device has 2 of the 16 rows"
    for operation in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert operation not in found["take_rows"], "rows stay on their device"


@pytest.mark.parametrize("dtypes", [COMPUTE_DTYPE, INT8], ids=["float", "int8"])
def test_abstract_inputs_are_those_of_a_run(layout: Layout, dtypes: DecodeDtypes) -> None:
    model = build_model(ModelConfig(**SIZES), layout)
    sampler = Sampler(model, layout, [2], 9, decode_slots=8, dtypes=dtypes)
    engine = sampler.engine
    prefill = engine.prefill = mock.Mock(wraps=engine.prefill)
    find = engine.decode_programs.find = mock.Mock(wraps=engine.decode_programs.find)
    params = jax.jit(lambda: initial_params(model, jax.random.key(1)))()
    list(sampler.generate(params, [[1, 2], [3]], SamplingParams(samples=4)))
    inputs = abstract_inputs(engine, SlotShape(2, 4, 1), StateLengths(32, 9))
    seen: dict[str, tuple] = {"prefill": prefill.call_args.args, "decode": find.call_args.args[0]}
    for name, expected in inputs._asdict().items():
        found = jax.tree.map(lambda x: (np.shape(x), jax.dtypes.result_type(x)), seen[name])
        assert found == jax.tree.map(lambda x: (x.shape, x.dtype), expected), name
    compiled = (
        Sampler(model, layout, [2], 9, dtypes=dtypes)
        .engine.decode.lower(*inputs.decode, mode=SamplingMode(False, False, False))
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes > 0


if __name__ == "__main__":
    layouts = [[Layout(make_mesh(MeshSettings(**axes))) for axes in meshes] for *meshes, _ in MESHES]
    found = [
        generate(trained, layout, decode_slots)
        for (trained, layout), (*_, decode_slots) in zip(layouts, MESHES, strict=True)
    ]
    (layout, *_), *_ = layouts
    engine = Sampler(build_model(ModelConfig(**SIZES), layout), layout, [2], 9).engine
    rows = layout.constrain(jnp.zeros((64, 4, 9, 4)), "BK..")
    moved = engine.take_rows.lower(rows, np.zeros((8, 2), np.int32)).compile().as_text()
    Path(sys.argv[1]).write_text(json.dumps({"tokens": found, "take_rows": moved}))
