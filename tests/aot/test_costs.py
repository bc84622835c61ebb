"""Costs of a program, read from its HLO."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.aot.bound import Bound, bound_of
from dsmath_jax.aot.collectives import Collective
from dsmath_jax.aot.costs import Costs, costs
from dsmath_jax.hardware import CHIPS
from tests.devices import cpu_devices

ROOT = Path(__file__).parents[2]


def by_kind(found: Costs) -> dict[str, dict[str, float]]:
    return found.totals(lambda each: each.kind)


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
    found = by_kind(costs(module(f"{P}%c = {line}\n{done}ROOT %z = f32[] constant(0)")))
    assert found == {kind: {"count": 1, "bytes": sent}}


def test_groups_in_an_unknown_notation_are_no_guess() -> None:
    with pytest.raises(ValueError, match="has replica_groups in an unknown notation"):
        costs(module(P + "ROOT %c = f32[8,16]{1,0} all-reduce(%p), replica_groups=new{1}, to_apply=%add"))


def test_a_collective_of_several_arrays_sends_them_all() -> None:
    entry = P + "%q = bf16[4]{0} constant({...})\nROOT %c = (f32[8,16], bf16[4]) all-reduce(%p, %q), to_apply=%add"
    assert by_kind(costs(module(entry)))["all-reduce"]["bytes"] == 1.5 * (512 + 8)


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
    assert costs(module(entry, called, nothing)).flops == 4 * DOT_FLOPS


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
    found = costs(loop())  # 1, 3, 5
    assert found.flops == 5 * 3 * DOT_FLOPS
    assert by_kind(found) == {"all-reduce": {"count": 15, "bytes": 15 * 512.0}}
    assert not found.unknown
    assert costs(loop(noted=', backend_config={"known_trip_count":{"n":"4"}}')).flops == 5 * 4 * DOT_FLOPS


def test_a_loop_with_a_data_dependent_trip_count_is_reported() -> None:
    found = costs(loop(bound="get-tuple-element(%s), index=1"))
    assert found.flops == 5 * DOT_FLOPS
    assert found.unknown == {"trip count of inner"}


def test_convolutions_that_stand_for_products() -> None:
    """A batched product as TPU compilers write it: the batch is a dilated spatial dimension, half of it padding."""
    entry = (
        "%a = bf16[2,512,128]{2,1,0} parameter(0)\n%b = bf16[2,256,128]{2,1,0} parameter(1)\n"
        "ROOT %c = f32[2,512,256]{2,1,0} convolution(%a, %b), window={size=2 stride=1 pad=1_1 lhs_dilate=2 "
        "rhs_reversal=1}, dim_labels=0bf_0oi->0bf"
    )
    assert costs(module(entry)).flops == 2 * 2 * 512 * 256 * 128
    plain = entry.replace("[2,", "[1,").replace("size=2 stride=1 pad=1_1 lhs_dilate=2 rhs_reversal=1", "size=1")
    assert costs(module(plain)).flops == 2 * 512 * 256 * 128


def test_a_reduce_scatter_written_as_a_fused_all_reduce() -> None:
    inner = P + "%r = f32[8,16] all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add\nROOT %s = f32[2,16] slice(%r)"
    entry = P + "ROOT %f = f32[2,16] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3"
    found = costs(module(entry, computation("all-reduce-scatter.3", inner)))
    assert by_kind(found) == {"reduce-scatter": {"count": 1, "bytes": 384.0}}


def test_a_gather_cut_into_steps_counts_once() -> None:
    gather = P + '%g = f32[32,16] all-gather(%p), replica_groups=[1,4]<=[4], frontend_attributes={chain_id="7"}\n'
    entry = P + "".join(f"%{name} = f32[32,16] fusion(%p), calls=%{name}.1\n" for name in ("start", "more", "done"))
    parts = [
        computation(f"{name}.1", gather + f'ROOT %c = f32[32,16] custom-call(%g), custom_call_target="{target}"')
        for name, target in {"start": "AsyncCollectiveStart", "more": "Other", "done": "AsyncCollectiveDone"}.items()
    ]
    found = costs(module(entry + "ROOT %z = f32[] constant(0)", *parts))
    assert by_kind(found) == {"all-gather": {"count": 1, "bytes": 1536.0}}


def test_kernels() -> None:
    """Splash attention by its formula (2, 3 and 4 products for half of the pairs), others by what they state."""
    inputs = (
        "%m = s8[1,8,8] parameter(0)\n%q = bf16[2,4,64,16]{3,2,1,0} parameter(1)\n"
        "%k = bf16[2,2,64,16]{3,2,1,0} parameter(2)\n"
    )
    call = ' = (f32[8,128], bf16[2,4,64,16]) custom-call(%m, %q, %k), custom_call_target="tpu_custom_call"'
    pair = 2 * 4 * 64 * 64 * 16
    for name, products in {"splash_mha_fwd_x.3": 2, "splash_mha_dq_x": 3, "splash_mha_dkv_x.1": 4}.items():
        found = costs(module(f"{inputs}ROOT %{name}{call}"))
        assert found.flops == products * pair
        assert found.kernels == {name.split(".")[0]}
    stated = costs(module(f'{inputs}ROOT %mine{call}, metadata={{\n"a"}}, "cost_estimate":{{"flops":"1234"}}'))
    assert (stated.flops, stated.unknown) == (1234, frozenset())
    assert costs(module(f"{inputs}ROOT %mine.5{call}")).unknown == {"FLOPs of the kernel mine"}


def test_text_that_is_no_hlo() -> None:
    with pytest.raises(ValueError, match="not an HLO module"):
        costs("hello")


COUNTED = """
import json, functools, jax, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P, NamedSharding
from dsmath_jax.aot.costs import costs
from dsmath_jax.aot.program import memory_of
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
found = costs(compiled.as_text())
totals = found.totals(lambda each: " ".join([each.kind, *each.axes(mesh.shape)]))
print(json.dumps([found.flops, totals, sorted(found.unknown), memory_of(compiled)]))
"""


def test_a_compile_program_of_eight_devices() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNTED], env=cpu_devices(8), capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    flops, kinds, unknown, memory = json.loads(run.stdout)
    part = 8 * 64 * 4  # bytes of a device's rows
    assert flops == 6 * 2 * 8 * 64 * 64
    assert unknown == []
    assert kinds == {
        "all-gather x": {"count": 6, "bytes": 6 * part * 3},
        "reduce-scatter x": {"count": 6, "bytes": 6 * part * 4 * 3 / 4},
        "all-reduce x y": {"count": 1, "bytes": 2 * part * 7 / 8},
        "all-to-all x": {"count": 6, "bytes": 6 * part * 3 / 4},
        "collective-permute y": {"count": 6, "bytes": 6 * part},
    }
    assert memory["memory"]["arguments"] == part + 6 * 64 * 64 * 4
    assert memory["hbm_bytes"] >= memory["memory"]["arguments"] + memory["memory"]["output"]


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("f32[8,16]{1,0} add(%p, %p)", 3 * 512),  # both operands and the result
        ("f32[1,16]{1,0} dynamic-slice(%p, %z, %z), dynamic_slice_sizes={1,16}", 2 * 64 + 2 * 4),
        ("f32[8,16]{1,0} dynamic-update-slice(%p, %row, %z, %z)", 2 * 64 + 2 * 4),  # in place
        ("f32[2,16]{1,0} gather(%p, %ids), offset_dims={1}", 2 * 128 + 8),
        ("f32[8,16]{1,0:T(8,128)S(1)} add(%p, %p)", 2 * 512),  # the result is in on-chip memory
        ("(f32[8,16]{1,0:S(1)}, f32[8,16]{1,0}, u32[]) copy-start(%p)", 512),
        ("((f32[8,16]{1,0}), f32[2,16]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:2], [0:16]}", 128),
        ("f32[2,16]{1,0:S(1)} slice-done(%p)", 0),  # moved by the start
        ("f32[2,16]{1,0} reduce-scatter-done(%p)", 0),
        ("f32[8,16]{1,0} bitcast(%p)", 0),
        ("(f32[8,16], f32[1,16]) tuple(%p, %row)", 0),
        ("f32[8,16]{1,0} fusion(%p, %z), kind=kLoop, calls=%sliced", 64 + 4 + 512),
        ("f32[8,16]{1,0} fusion(%p, %row, %z), kind=kLoop, calls=%updated", 2 * 64 + 4),
        ("f32[8,16]{1,0} fusion(%p, %z), kind=kLoop, calls=%nested", 64 + 4 + 512),
        ("f32[8,16]{1,0} fusion(%p), kind=kLoop, calls=%renamed", 2 * 512),
        ("f32[8,16]{1,0} fusion(%p), kind=kOutput, calls=%of_renamed", 2 * 512),  # TPUs read weights in this way
        ("f32[8,16]{1,0} fusion(%p, %z), kind=kLoop, calls=%sliced_renamed", 64 + 4 + 512),
        ("f32[8,16]{1,0} fusion(%p, %z), kind=kLoop, calls=%sliced_padded", 64 + 4 + 512),
        ("f32[8,16]{1,0} fusion(%p), kind=kLoop, calls=%padded", 512 + 512),
    ],
)  # fmt: skip
def test_bytes_that_an_instruction_moves(line: str, moved: float) -> None:
    inner = "%a = f32[8,16]{1,0} parameter(0)\n"
    at = "%i = s32[] parameter(1)\n"
    row = "%s = f32[1,16]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,16}\n"
    parts = {
        "sliced": f"{inner}{at}{row}ROOT %b = f32[8,16]{{1,0}} broadcast(%s), dimensions={{0,1}}",
        "updated": f"{inner}%r = f32[1,16] parameter(1)\n%i = s32[] parameter(2)\n"
        "ROOT %u = f32[8,16]{1,0} dynamic-update-slice(%a, %r, %i, %i)",
        "nested": f"{inner}{at}%v = f32[8,16] bitcast(%a)\n"
        "ROOT %n = f32[8,16]{1,0} fusion(%v, %i), kind=kLoop, calls=%sliced",
        "renamed": f"{inner}ROOT %v = f32[8,16] bitcast(%a)",
        "of_renamed": f"{inner}%n = f32[8,16] fusion(%a), kind=kLoop, calls=%renamed\n"
        "ROOT %d = f32[8,16]{1,0} negate(%n)",
        "sliced_renamed": f"{inner}{at}%n = f32[8,16] fusion(%a), kind=kLoop, calls=%renamed\n"
        f"{row.replace('%a', '%n')}ROOT %b = f32[8,16]{{1,0}} broadcast(%s), dimensions={{0,1}}",
        # As TPU compilers write products that are split into steps: of two rows of twice as many, one is padding.
        "sliced_padded": f"{inner}{at}%z = f32[] constant(0)\n"
        "%v = f32[16,16]{1,0:S(1)} pad(%a, %z), padding=0_8x0_0\n%n = bf16[16,16]{1,0} convert(%v)\n"
        "%s = bf16[2,16]{1,0} dynamic-slice(%n, %i, %i), dynamic_slice_sizes={2,16}\n"
        "ROOT %b = f32[8,16]{1,0} broadcast(%s), dimensions={0,1}",
        "padded": f"{inner}%z = f32[] constant(0)\n%v = f32[8,16]{{1,0}} pad(%a, %z), padding=0_0x0_0\n"
        "ROOT %b = f32[8,16]{1,0} bitcast(%v)",
    }
    entry = f"{P}%z = s32[] parameter(1)\n%row = f32[1,16] parameter(2)\n%ids = s32[2] parameter(3)\nROOT %c = {line}"
    found = costs(module(entry, *(computation(name, lines) for name, lines in parts.items())))
    assert found.traffic == moved


def test_an_operand_that_a_fusion_returns_is_copied_unless_it_stays_in_its_buffer() -> None:
    row = "%r = f32[1,16] parameter(1)\n%n = f32[1,16] negate(%r)\n"
    inner = computation("kept", f"{P}{row}ROOT %t = (f32[1,16], f32[8,16]) tuple(%n, %p)")
    entry = f"{P}%row = f32[1,16] parameter(1)\nROOT %f = (f32[1,16], f32[8,16]) fusion(%p, %row), calls=%kept"
    assert costs(module(entry, inner)).traffic == 2 * 64 + 2 * 512
    aliased = entry + ", output_to_operand_aliasing={{1}: (0, {})}"
    assert costs(module(aliased, inner)).traffic == 2 * 64


def test_a_gather_in_steps_moves_its_arrays_once() -> None:
    """As TPU compilers overlap a gather with products: each step has the operand and the result, in their buffers."""
    parts, whole = "f32[8,16]{1,0:T(8,128)}", "f32[32,16]{1,0:T(8,128)}"
    gather = (
        f"%g = {whole} all-gather(%p), replica_groups=[1,4]<=[4], dimensions={{0}}, "
        'frontend_attributes={chain_id="0"}\n'
    )
    both = f"%p = {parts} parameter(0)\n%q = {whole} parameter(1)\n"
    context = f"({parts}, {whole}, u32[]{{:S(2)}})"
    start = f'{P}{gather}ROOT %c = {context} custom-call(%g), custom_call_target="AsyncCollectiveStart"'
    done = f'{both}{gather}ROOT %c = {whole} custom-call(%p, %q, %g), custom_call_target="AsyncCollectiveDone"'
    step = (
        f"{both}%r = f32[1,16] parameter(2)\n{gather}%n = f32[1,16]{{1,0:S(1)}} negate(%r)\n"
        f"ROOT %t = (f32[1,16]{{1,0:S(1)}}, {parts}, {whole}, {whole}) tuple(%n, %p, %q, %g)"
    )
    entry = (
        f"{P}%row = f32[1,16] parameter(1)\n"
        f"%s = {context} fusion(%p), kind=kCustom, output_to_operand_aliasing={{{{0}}: (0, {{}})}}, calls=%start\n"
        f"%s0 = {parts} get-tuple-element(%s), index=0\n%s1 = {whole} get-tuple-element(%s), index=1\n"
        f"%m = (f32[1,16]{{1,0:S(1)}}, {parts}, {whole}, {whole}) fusion(%s0, %s1, %row), kind=kOutput, "
        "output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {}), {3}: (1, {})}, calls=%step\n"
        f"%m0 = {parts} get-tuple-element(%m), index=1\n%m1 = {whole} get-tuple-element(%m), index=3\n"
        f"ROOT %d = {whole} fusion(%m0, %m1), kind=kCustom, output_to_operand_aliasing={{{{}}: (1, {{}})}}, calls=%done"
    )
    called = {"start": start, "step": step, "done": done}
    found = costs(module(entry, *(computation(name, lines) for name, lines in called.items())))
    assert found.traffic == 512 + 2048 + 64  # the part, all parts, and the row that the product reads
    assert by_kind(found) == {"all-gather": {"count": 1, "bytes": 1536.0}}


def test_arrays_that_fit_the_cache_are_free_and_slices_of_larger_ones_are_not() -> None:
    entry = (
        P + "%z = s32[] constant(0)\n%row = f32[1,16]{1,0} dynamic-slice(%p, %z, %z), dynamic_slice_sizes={1,16}\n"
        "ROOT %c = f32[1,16]{1,0} add(%row, %row)"
    )
    assert costs(module(entry), cache=0).traffic == 2 * 64 + 2 * 4 + 3 * 64
    assert costs(module(entry), cache=64).traffic == 64  # the row is read from the array, which is larger
    assert costs(module(entry), cache=512).traffic == 0


def test_a_loop_moves_bytes_in_each_turn() -> None:
    found = costs(loop())
    turn = 3 * 4 + 2 * 512 + (512 + 16 * 32 * 2 + 8 * 32 * 4)  # counter, all-reduce, product
    test = 0  # conditions are not counted
    assert found.traffic == 5 * (2 * 4 + 3 * (turn + test))


def test_bytes_over_links_and_network() -> None:
    """Four hosts of two devices: a ring within each host and one across them reach what is counted."""
    islands, groups = np.arange(8) // 2, np.arange(8)[None]
    found = {
        kind: Collective(kind, 1, 80.0, groups).sent_over(islands)
        for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")
    }
    assert found == {
        "all-gather": (80 * 4, 80 * 3),  # each device brings in the 3 other hosts' parts of its own, and passes 4 on
        "reduce-scatter": (40, 40 * 3 / 4),
        "all-reduce": (80, 80 * 3 / 4),
        "all-to-all": (10, 60),
    }
    pairs = np.array([[0, 1], [1, 0]])
    assert Collective("collective-permute", 1, 80.0, pairs).sent_over(islands) == (80, 0)
    assert Collective("collective-permute", 1, 80.0, pairs * 2).sent_over(islands) == (0, 80)
    within = Collective("all-gather", 1, 80.0, np.arange(8).reshape(4, 2))
    assert (within.sent_over(islands), within.sent) == ((80, 0), 80)


def test_axes_along_which_a_collective_communicates() -> None:
    mesh = {"replica": 2, "fsdp": 1, "tensor": 4}
    grid = np.arange(8).reshape(2, 4)
    assert Collective("all-reduce", 1, 1.0, grid).axes(mesh) == ("tensor",)
    assert Collective("all-reduce", 1, 1.0, grid.T).axes(mesh) == ("replica",)
    assert Collective("all-reduce", 1, 1.0, grid.reshape(1, 8)).axes(mesh) == ("replica", "tensor")


class Device:
    platform, process_index = "gpu", 0


def test_the_busiest_resource_bounds_the_time() -> None:
    sent = Collective("all-gather", 3, 450e9, np.arange(8)[None])
    found = bound_of(Costs(2 * 989e12, 3350e9, {("a",): sent}), CHIPS["h100"], [Device()] * 8)
    assert found == Bound(compute=2.0, memory=1.0, links=21.0, network=0.0)
    assert (found.overlapped, found.serial, found.limit) == (21.0, 23.0, "links")
    assert found.times(2) + found == found.times(3)


CUDNN = (
    "%q = bf16[2,64,4,16] parameter(0)\n%k = bf16[2,64,2,16] parameter(1)\n"
    "ROOT %a = (bf16[2,4,64,16], u8[0]) custom-call(%q, %k, %k), custom_call_target="
    '"__cudnn$fmhaScaleBiasSoftmax{0}", backend_config={{"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": '
    '{{"element_type": "BF16", "dimensions": ["2", "4", "64", "64"]}}, "mask_type": "{1}"}}}}'
)


@pytest.mark.parametrize(("kernel", "products"), [("", 2), ("Backward", 5)])
def test_attention_of_cudnn(kernel: str, products: int) -> None:
    pairs = 2 * 4 * 64 * 64 * 16
    assert costs(module(CUDNN.format(kernel, "CAUSAL"))).flops == products * pairs
    assert costs(module(CUDNN.format(kernel, "NO_MASK"))).flops == 2 * products * pairs


def test_products_of_cublas() -> None:
    entry = (
        P + "%w = f32[32,16] parameter(1)\n"
        'ROOT %g = (f32[8,32], s8[64]) custom-call(%p, %w), custom_call_target="__cublas$gemm", backend_config={'
        '"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    assert costs(module(entry)).flops == DOT_FLOPS
