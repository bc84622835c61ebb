"""Compiling for TPUs that are not there: costs read from HLO, and the train step of a small config for `v5e:2x2`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.aot import hlo, rl, step
from dsmath_jax.aot.__main__ import ENVIRONMENT, programs_text, step_text
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install -e '.[tpu]' -c constraints.txt"
)


def module(entry: str, *computations: str) -> str:
    """HLO of four devices whose entry computation has these lines."""
    head = ["HloModule jit_f, is_scheduled=true, num_partitions=4", ""]
    lines = [f"  {line}" for line in entry.strip().splitlines()]
    return "\n".join([*head, *computations, "ENTRY %main (p: f32[8,16]) -> f32[] {", *lines, "}", ""])


def computation(name: str, lines: str) -> str:
    return "\n".join([f"%{name} (p: f32[8,16]) -> f32[] {{", *(f"  {x}" for x in lines.strip().splitlines()), "}", ""])


P = "%p = f32[8,16]{1,0:T(8,128)} parameter(0)\n"
DOT = (
    "%w = bf16[16,32]{1,0} constant({...})\n"
    "ROOT %d = f32[8,32]{1,0} dot(%p, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, "
    'metadata={op_name="while(body=%x) calls=%y"}\n'
)
DOT_FLOPS = 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        # Rings of 4: each of the bytes of the operand (8 x 16 x 4 = 512) goes to the three others, or to all but one.
        ("f32[32,16]{1,0} all-gather(%p), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}", "all-gather", 1536),
        ("f32[2,16]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, to_apply=%add", "reduce-scatter", 384),
        ("f32[8,16]{1,0} all-reduce(%p), replica_groups={}, to_apply=%add", "all-reduce", 768),
        ("f32[8,16]{1,0} all-reduce(%p), replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", "all-reduce", 512),
        ("f32[8,16]{1,0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add", "all-reduce", 512),
        ("f32[8,16]{1,0} all-reduce(%p), replica_groups=mesh['a'=4] {'a':(1)2}, to_apply=%add", "all-reduce", 512),
        ("f32[] all-reduce(%p), replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", "all-reduce", 512),
        ("f32[8,16]{1,0} all-to-all(%p), replica_groups={{0,1,2,3}}, dimensions={0}", "all-to-all", 384),
        ("f32[8,16]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}", "collective-permute", 512),
        ("(f32[8,16]{1,0}, f32[32,16]{1,0}) all-gather-start(%p), replica_groups=[1,4]<=[4]", "all-gather", 1536),
    ],
)  # fmt: skip
def test_bytes_that_a_collective_sends(line: str, kind: str, sent: float) -> None:
    done = f"%e = f32[32,16]{{1,0}} {kind}-done(%c)\n" if "-start" in line else ""
    found = hlo.costs(module(f"{P}%c = {line}\n{done}ROOT %z = f32[] constant(0)")).by_kind()
    assert found == {kind: {"count": 1, "bytes": sent}}


def test_groups_in_an_unknown_notation_are_no_guess() -> None:
    with pytest.raises(ValueError, match="has replica_groups in an unknown notation"):
        hlo.costs(module(P + "ROOT %c = f32[8,16]{1,0} all-reduce(%p), replica_groups=new{1}, to_apply=%add"))


def test_a_collective_of_several_arrays_sends_them_all() -> None:
    entry = P + "%q = bf16[4]{0} constant({...})\nROOT %c = (f32[8,16], bf16[4]) all-reduce(%p, %q), to_apply=%add"
    assert hlo.costs(module(entry)).by_kind()["all-reduce"]["bytes"] == 1.5 * (512 + 8)


def test_products_are_counted_where_they_are_called() -> None:
    called = computation("inner", P + DOT)
    entry = (
        P + "%f = f32[8,32]{1,0} fusion(%p), kind=kOutput, calls=%inner\n"
        "%c = f32[8,32]{1,0} call(%p), to_apply=%inner\n"
        "%a = ((f32[8,16]), f32[8,32], u32[]) async-start(%p), calls=%inner\n"
        "%b = f32[8,32] async-done(%a), calls=%inner\n"
        "ROOT %g = f32[8,32] conditional(%p, %f, %c), branch_computations={%inner, %nothing}"
    )
    nothing = computation("nothing", "ROOT %z = f32[] constant(0)")
    assert hlo.costs(module(entry, called, nothing)).flops == 4 * DOT_FLOPS


def loop(bound: str = "constant(7)", begin: int = 1, stride: int = 2, noted: str = "") -> str:
    """A loop around a product and an all-reduce, inside a loop of five turns that the compiler noted."""
    state = "(s32[], f32[8,16])"
    counter = f"%s = {state} parameter(0)\n%i = s32[] get-tuple-element(%s), index=0\n"
    body = (
        f"{counter}%p = f32[8,16] get-tuple-element(%s), index=1\n%by = s32[] constant({stride})\n"
        "%n = s32[] add(%i, %by)\n%k = f32[8,16] all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%add\n"
        + DOT.replace("ROOT ", "")
        + f"ROOT %t = {state} tuple(%n, %k)"
    )
    condition = f"{counter}%m = s32[] {bound}\nROOT %l = pred[] compare(%i, %m), direction=LT"
    outer = (
        f"%q = f32[8,16] parameter(0)\n%zero = s32[] constant({begin})\n%copy = s32[] copy(%zero)\n"
        f"%in = {state} tuple(%copy, %q)\nROOT %inner = {state} while(%in), condition=%test, body=%turn{noted}"
    )
    entry = P + (
        f"ROOT %w = {state} while(%p), condition=%never, body=%outer, "
        'backend_config={"known_trip_count":{"n":"5"}}'
    )  # fmt: skip
    parts = {"turn": body, "test": condition, "outer": outer, "never": "ROOT %z = pred[] constant(false)"}
    return module(entry, *(computation(name, lines) for name, lines in parts.items()))


def test_a_loop_counts_as_often_as_it_turns() -> None:
    found = hlo.costs(loop())  # 1, 3, 5
    assert found.flops == 5 * 3 * DOT_FLOPS
    assert found.by_kind() == {"all-reduce": {"count": 15, "bytes": 15 * 512.0}}
    assert not found.unknown
    assert hlo.costs(loop(noted=', backend_config={"known_trip_count":{"n":"4"}}')).flops == 5 * 4 * DOT_FLOPS


def test_a_loop_with_a_data_dependent_trip_count_is_reported() -> None:
    found = hlo.costs(loop(bound="get-tuple-element(%s), index=1"))
    assert found.flops == 5 * DOT_FLOPS
    assert found.unknown == {"trip count of inner"}


def test_convolutions_that_stand_for_products() -> None:
    """A batched product as TPU compilers write it: the batch is a dilated spatial dimension, half of it padding."""
    entry = (
        "%a = bf16[2,512,128]{2,1,0} parameter(0)\n%b = bf16[2,256,128]{2,1,0} parameter(1)\n"
        "ROOT %c = f32[2,512,256]{2,1,0} convolution(%a, %b), window={size=2 stride=1 pad=1_1 lhs_dilate=2 "
        "rhs_reversal=1}, dim_labels=0bf_0oi->0bf"
    )
    assert hlo.costs(module(entry)).flops == 2 * 2 * 512 * 256 * 128
    plain = entry.replace("[2,", "[1,").replace("size=2 stride=1 pad=1_1 lhs_dilate=2 rhs_reversal=1", "size=1")
    assert hlo.costs(module(plain)).flops == 2 * 512 * 256 * 128


def test_a_reduce_scatter_written_as_a_fused_all_reduce() -> None:
    inner = P + "%r = f32[8,16] all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add\nROOT %s = f32[2,16] slice(%r)"
    entry = P + "ROOT %f = f32[2,16] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3"
    found = hlo.costs(module(entry, computation("all-reduce-scatter.3", inner)))
    assert found.by_kind() == {"reduce-scatter": {"count": 1, "bytes": 384.0}}


def test_a_gather_cut_into_steps_counts_once() -> None:
    gather = P + '%g = f32[32,16] all-gather(%p), replica_groups=[1,4]<=[4], frontend_attributes={chain_id="7"}\n'
    entry = P + "".join(f"%{name} = f32[32,16] fusion(%p), calls=%{name}.1\n" for name in ("start", "more", "done"))
    parts = [
        computation(f"{name}.1", gather + f'ROOT %c = f32[32,16] custom-call(%g), custom_call_target="{target}"')
        for name, target in {"start": "AsyncCollectiveStart", "more": "Other", "done": "AsyncCollectiveDone"}.items()
    ]
    found = hlo.costs(module(entry + "ROOT %z = f32[] constant(0)", *parts))
    assert found.by_kind() == {"all-gather": {"count": 1, "bytes": 1536.0}}


def test_kernels() -> None:
    """Splash attention by its formula (2, 3 and 4 products for half of the pairs), others by what they state."""
    inputs = (
        "%m = s8[1,8,8] parameter(0)\n%q = bf16[2,4,64,16]{3,2,1,0} parameter(1)\n"
        "%k = bf16[2,2,64,16]{3,2,1,0} parameter(2)\n"
    )
    call = ' = (f32[8,128], bf16[2,4,64,16]) custom-call(%m, %q, %k), custom_call_target="tpu_custom_call"'
    pair = 2 * 4 * 64 * 64 * 16
    for name, products in {"splash_mha_fwd_x.3": 2, "splash_mha_dq_x": 3, "splash_mha_dkv_x.1": 4}.items():
        found = hlo.costs(module(f"{inputs}ROOT %{name}{call}"))
        assert found.flops == products * pair
        assert found.kernels == {name.split(".")[0]}
    stated = hlo.costs(module(f'{inputs}ROOT %mine{call}, metadata={{\n"a"}}, "cost_estimate":{{"flops":"1234"}}'))
    assert (stated.flops, stated.unknown) == (1234, frozenset())
    assert hlo.costs(module(f"{inputs}ROOT %mine.5{call}")).unknown == {"FLOPs of the kernel mine"}


def test_text_that_is_no_hlo() -> None:
    with pytest.raises(ValueError, match="not an HLO module"):
        hlo.costs("hello")


COUNTED = """
import json, functools, jax, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P, NamedSharding
from dsmath_jax.aot import hlo, step
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

def local(a, w):
    def turn(carry, w):
        carry = jax.lax.psum_scatter(jax.lax.all_gather(carry @ w, "x"), "x")
        carry = jax.lax.ppermute(carry, "y", [(0, 1), (1, 0)])
        return jax.lax.all_to_all(carry, "x", 0, 0, tiled=True), None
    carry, _ = jax.lax.scan(turn, a, w)
    return jax.lax.psum(carry, ("x", "y"))

f = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("x"), P()), out_specs=P(), check_vma=False))
compiled = f.lower(jnp.ones((32, 64)), jnp.ones((6, 64, 64))).compile()
found = hlo.costs(compiled.as_text())
print(json.dumps([found.flops, found.by_kind(), sorted(found.unknown), step.memory_of(compiled)]))
"""


def test_a_compile_program_of_eight_devices() -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", COUNTED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    flops, kinds, unknown, memory = json.loads(run.stdout)
    part = 8 * 64 * 4  # bytes of a device's rows
    assert flops == 6 * 2 * 8 * 64 * 64
    assert unknown == []
    assert kinds == {
        "all-gather": {"count": 6, "bytes": 6 * part * 3},
        "reduce-scatter": {"count": 6, "bytes": 6 * part * 4 * 3 / 4},
        "all-reduce": {"count": 1, "bytes": 2 * part * 7 / 8},
        "all-to-all": {"count": 6, "bytes": 6 * part * 3 / 4},
        "collective-permute": {"count": 6, "bytes": 6 * part},
    }
    assert memory["memory"]["arguments"] == part + 6 * 64 * 64 * 4
    assert memory["hbm_bytes"] >= memory["memory"]["arguments"] + memory["memory"]["output"]


def test_donated_arguments_are_counted_once() -> None:
    def memory(donate: tuple[int, ...]) -> dict[str, Any]:
        f = jax.jit(lambda x: x + 1, donate_argnums=donate)
        return step.memory_of(f.lower(jax.ShapeDtypeStruct((1 << 20,), jnp.float32)).compile())

    kept, donated = memory(()), memory((0,))
    assert donated["memory"]["aliased"] == 1 << 22
    assert kept["hbm_bytes"] - donated["hbm_bytes"] == 1 << 22


def test_a_program_that_xla_refuses_for_its_memory() -> None:
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 33.25G of 31.25G hbm. Exceeded"
    assert step.refused_memory(message) == {"hbm_bytes": int(33.25 * 2**30), "memory": None}
    message = (
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (512.5M) exceeds available HBM (31.25G)."
    )
    assert step.refused_memory(message)["hbm_bytes"] == int(512.5 * 2**20)
    with pytest.raises(UserError, match="XLA cannot compile this step: INTERNAL: RET_CHECK"):
        step.refused_memory("INTERNAL: RET_CHECK failure\nand more")


def test_what_native_code_says_is_kept_off_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    with step.capture_stderr() as captured:
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert captured == ["noise\n"]
    assert capfd.readouterr().err == "after\n"


CONFIG = """
from ml_collections import ConfigDict
from dsmath_jax.models.sizes import sizes

def get_config():
    config = ConfigDict()
    config.tokenizer = {"vocab_size": 512}
    config.model = sizes(
        "134m", num_hidden_layers=2, hidden_size=256, num_attention_heads=2, head_dim=128, intermediate_size=256,
        remat="full",
    )  # fmt: skip
    training = {
        "steps": 100, "checkpoint_every": 10, "grad_accum_steps": 2, "peak_lr": 1e-3, "warmup_steps": 10,
    }  # fmt: skip
    config.pretrain = {"sequence_length": 256, "batch_size": 16, **training}
    config.rl = {
        "method": "grpo_rule", "prompts_per_step": 4, "group_size": 4, "max_prompt_tokens": 129, "max_new_tokens": 128,
        **training,
    }  # fmt: skip
    return config
"""


def aot(tmp_path: Path, *flags: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    config, out = tmp_path / "small.py", tmp_path / "out.json"
    config.write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "dsmath_jax.aot", f"--config={config}", f"--json={out}", *flags]
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600, check=False
    )
    return run, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


@needs_libtpu
def test_a_small_config_compiles_for_v5e_with_splash_attention(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["fits"] is True
    assert found["device_kind"] == "TPU v5 lite"
    assert found["mesh"] == {"replica": 1, "fsdp": 4, "context": 1, "tensor": 1}
    memory = found["memory"]
    together = sum(memory.values()) - 2 * memory["aliased"]
    assert memory["arguments"] < found["hbm_bytes"] < 1.2 * together
    # Two layers of 4 x 256 x 256 + 3 x 256 x 256 weights, embedding and head, each with two moments, over four devices.
    weights = (2 * 7 * 256 * 256 + 2 * 512 * 256) * 4 * 3 / 4
    np.testing.assert_allclose(memory["arguments"], weights, rtol=0.05)
    assert memory["aliased"] > 0.9 * memory["arguments"]  # the state is donated
    assert [name.split("_")[2] for name in found["kernels"]] == ["dkv", "dq", "fwd"]
    # Everything is made again, so 8 in place of 6 units a product, and of attention's (2 + 2 + 3 + 4) in place of 6.
    assert 1.3 < found["flops_ratio"] < 1.5
    assert found["notes"] == []
    # Each matrix is gathered in bfloat16 for each of two micro-batches and twice of them, forward and to remake.
    assert found["collectives"]["all-gather"]["bytes"] >= 2 * 2 * (2 * 7 * 256 * 256) * 2 * 3 / 4
    assert found["full_rematerializations"] == 0
    assert "fits" in run.stdout
    assert step_text(found) == run.stdout.strip()


@needs_libtpu
def test_layers_with_and_without_a_window_compile_for_v5e(tmp_path: Path) -> None:
    """As in Gemma 2, with kernels for both kinds of layer."""
    types = "('sliding_attention', 'full_attention')"
    changed = {"sliding_window": 128, "layer_types": types, "attn_logit_softcapping": 50.0, "attention_bias": True}
    changed |= {"final_logit_softcapping": 30.0, "norm_placement": "both", "qk_norm": "head", "scale_embeddings": True}
    run, found = aot(tmp_path, "--topology=v5e:2x2", *(f"--config.model.{k}={v}" for k, v in changed.items()))
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["fits"] is True
    assert [name.split("_")[2] for name in found["kernels"]] == ["dkv", "dq", "fwd"]
    assert found["full_rematerializations"] == 0


@needs_libtpu
def test_a_config_made_too_large_does_not_fit(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--config.pretrain.batch_size=262144")
    assert (run.returncode, run.stderr) == (0, "")
    assert found["fits"] is False
    assert found["hbm_bytes"] > found["chip_bytes"] == int(15.75 * 2**30)
    assert "DOES NOT FIT" in run.stdout


@needs_libtpu
def test_all_programs_of_rl_compile_for_v5e(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--stage=rl")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert list(found["programs"]) == ["prefill", "decode", "grow", "reference", "update"]
    weights = 2 * 7 * 256 * 256 + 2 * 512 * 256
    norms = 5 * 256  # whole on every device
    assert found["residents"]["policy"] == found["residents"]["reference"] == weights + 4 * norms  # float32 over four
    assert found["residents"]["optimizer"] == pytest.approx(2 * (weights + 4 * norms), rel=1e-4)
    parts = found["phases"]["sample"]
    assert parts["weights to decode with"] == 2 * weights + 4 * norms  # bfloat16, on every device
    # Keys and values of 16 rings of 128 places, and of 4 prompts in the bucket of 192, in bfloat16, over four devices.
    cache = 2 * 2 * 256 * 2 * (16 * 128 + 4 * 192) / 4
    assert found["programs"]["decode"]["memory"]["arguments"] == pytest.approx(2 * weights + cache, rel=0.02)
    assert parts["cache, and sampling above it"] > cache
    assert found["programs"]["decode"]["memory"]["aliased"] > 0.9 * cache  # the state is donated
    assert "splash_mha_dq" in str(found["programs"]["update"]["kernels"])
    assert found["hbm_bytes"] == max(sum(parts.values()) for parts in found["phases"].values())
    assert found["fits"] is True
    assert found["full_rematerializations"] == 0
    assert programs_text(found) == run.stdout.strip()


@needs_libtpu
def test_the_sampler_alone(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:1x1", "--stage=sample", "--config.rl.cache_dtype=float32")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert list(found["programs"]) == ["prefill", "decode", "grow"]
    cache = 2 * 2 * 256 * 4 * (16 * 128 + 4 * 192)
    assert found["programs"]["decode"]["memory"]["arguments"] > cache
    assert "phase sample: " in run.stdout


def test_what_rl_holds_in_each_phase() -> None:
    residents = {"policy": 10, "optimizer": 20, "reference": 10, "reward model": 11}
    needed = {"prefill": 12, "decode": 30, "grow": 40, "reference": 14, "reward model": 19, "update": 70}
    programs = {name: {"hbm_bytes": size} for name, size in needed.items()}
    found = rl.phases(programs, residents, weights=5, on_host=False)
    assert {name: sum(parts.values()) for name, parts in found.items()} == {
        "sample": 51 + 5 + 40,  # growing the cache needs the most, and has no weights among its arguments
        "score": 51 + max(14 - 10, 19 - 11),
        "update": 51 + 70 - 30,
    }
    on_host = rl.phases(programs, residents, weights=5, on_host=True)
    assert {name: sum(parts.values()) for name, parts in on_host.items()} == {
        "sample": 41 + 5 + 40, "score": 41 + 10 + 8, "update": 41 + 40
    }  # fmt: skip


DESCRIBED = """
import json, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dsmath_jax.aot import step
from dsmath_jax.sharding import MeshSettings, make_mesh
from dsmath_jax.workdir import UserError

def message(f):
    try:
        return f()
    except UserError as error:
        return str(error)

with step.capture_stderr() as captured:
    two = step.topology_devices("2xv5e:2x2")
    mesh = make_mesh(MeshSettings(replica=2), two)
    one_replica = message(lambda: make_mesh(devices=two))
    unknown = [message(lambda: step.topology_devices(name)) for name in ("v9e:2x2", "v5e:3x5")]
    single = len(step.topology_devices("v6e:1x1"))
    square = make_mesh(MeshSettings(fsdp=2, tensor=2), step.topology_devices("v5e:2x2"))
    crossed, rows = (NamedSharding(square, P(*axes)) for axes in ((None, "tensor", "fsdp"), (("fsdp", "tensor"),)))
    x = jax.ShapeDtypeStruct((8, 8, 16), "float32")
    jax.jit(lambda x: jax.numpy.sin(x), in_shardings=crossed, out_shardings=rows).lower(x).compile()
slices = [sorted({device.slice_index for device in replica.flat}) for replica in mesh.devices]
print(json.dumps([mesh.shape, slices, one_replica, *unknown, single, captured[0].count(step.FULL_REMAT)]))
"""


@needs_libtpu
def test_described_topologies() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DESCRIBED],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    mesh, slices, one_replica, unknown, odd, single, relaid = json.loads(run.stdout)
    assert mesh == {"replica": 2, "fsdp": 4, "context": 1, "tensor": 1}
    assert slices == [[0], [1]]  # each replica is within one slice
    assert "is not divisible by the 2 TPU slices" in one_replica
    assert "libtpu knows no topology 'v9e:2x2' (INVALID_ARGUMENT" in unknown
    assert "libtpu knows no topology 'v5e:3x5'" in odd
    assert single == 1
    assert relaid > 0  # resharding that needs a gather of the whole array is counted


@pytest.mark.parametrize("topology", ["", "v5e", "8", "v5p-128", "0xv5e:2x2"])
def test_a_topology_that_is_not_understood(topology: str) -> None:
    with pytest.raises(UserError, match="is not understood; give one as v5e:4x4"):
        step.topology_devices(topology)


def test_the_error_says_how_to_install_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"^Compiling for TPUs needs the package libtpu: .*'dsmath-jax\[tpu\]'.$"):
        step.topology_devices("v5e:2x2")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "--topology is missing"),
        (("--topology=v5e:2x2", "--stage=sft"), "The config has no section 'sft'"),
        (("--topology=v5e:2x2", "--config.tokenizer.vocab_size=0"), "tokenizer.vocab_size is 0; it must be at least 1"),
        (("--topology=v5e:2x2", "--config.tokenizer.path=hf"), "give it as --config.model.vocab_size=N"),
        (("--topology=v5e:2x2", "--stage=rl", "--config.rl.method=dpo"), "rl.method=dpo learns from stored samples"),
        (("--topology=v5e:2x2", "--config.pretrain.bath_size=1"), "the nearest is 'pretrain.batch_size'"),
    ],
)  # fmt: skip
def test_an_invalid_command_line_is_one_error_message(tmp_path: Path, flags: tuple[str, ...], sentence: str) -> None:
    run, _ = aot(tmp_path, *flags)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert sentence in run.stderr
    assert run.stderr.count("\n") == 1
