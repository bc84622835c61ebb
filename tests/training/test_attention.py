"""Attention over a mesh: eight devices compute what one does, by every way to part the work; who may use which."""

import functools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import cudnn
from dsmath_jax.models.attention import AttentionSpec, packed_attention
from dsmath_jax.models.cudnn import visible_mask
from dsmath_jax.models.splash import splash_attention
from dsmath_jax.sharding import AXES, Layout, MeshSettings, make_mesh
from dsmath_jax.training.attention import attention_on, sharded
from dsmath_jax.workdir import UserError
from tests.devices import cpu_devices

MESHES: dict[str, dict[str, int]] = {
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 4, "fsdp": 2},
    "context": {"context": 8, "fsdp": 1},
    "all": {"fsdp": 2, "context": 2, "tensor": 2},
    "replicas": {"replica": 2, "context": 4, "fsdp": 1},
}
ROWS, TOKENS, HEADS, KV_HEADS, SIZE = 8, 32, 8, 4, 8
SPLASH = (1, 512, 2, 1, 64)  # rows, tokens, heads, key heads, head size


def inputs(rows: int, tokens: int, heads: int, kv_heads: int, size: int) -> tuple[jax.Array, ...]:
    noise = np.random.default_rng(0)
    q, weight = noise.normal(size=(2, rows, tokens, heads, size))
    k, v = noise.normal(size=(2, rows, tokens, kv_heads, size))
    ids = np.repeat([1, 2, 0], [tokens // 3, tokens // 2, tokens - tokens // 3 - tokens // 2])
    return *(jnp.float32(x) for x in (q, k, v, weight)), jnp.broadcast_to(jnp.int32(ids), (rows, tokens))


def compute(attention: Any, *given: jax.Array) -> dict[str, np.ndarray]:
    """Output and gradients."""
    q, k, v, weight, ids = given

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attention(q, k, v, ids)
        return jnp.sum(out * weight), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return {name: np.asarray(x) for name, x in zip(("out", "q", "k", "v"), (out, *gradients), strict=True)}


def on_eight_devices() -> dict[str, np.ndarray]:
    found = {}
    given = inputs(ROWS, TOKENS, HEADS, KV_HEADS, SIZE)
    for name, axes in MESHES.items():
        layout = Layout(make_mesh(MeshSettings(**axes)))
        put = [jax.device_put(x, layout.batch_sharding()) for x in given]
        found |= {f"{name}/{key}": x for key, x in compute(attention_on(layout), *put).items()}
    few = tuple(x[:3] for x in given)  # rows that are not divisible
    layout = Layout(make_mesh(MeshSettings(fsdp=4, tensor=2)))
    found |= {f"few/{key}": x for key, x in compute(attention_on(layout), *few).items()}
    layout = Layout(make_mesh(MeshSettings(context=4, tensor=2, fsdp=1)))
    interpreted = functools.partial(splash_attention, interpret=True)
    found |= {f"splash/{key}": x for key, x in compute(sharded(interpreted, layout), *inputs(*SPLASH)).items()}
    return found


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, __file__, str(tmp_path / "eight.npz")], env=cpu_devices(8)) as process:
        given = inputs(ROWS, TOKENS, HEADS, KV_HEADS, SIZE)
        one = compute(packed_attention, *given)
        few = compute(packed_attention, *(x[:3] for x in given))
        long = compute(packed_attention, *inputs(*SPLASH))
    assert process.returncode == 0
    eight = dict(np.load(tmp_path / "eight.npz"))
    expected = {f"{name}/{key}": x for name in MESHES for key, x in one.items()}
    expected |= {f"few/{key}": x for key, x in few.items()} | {f"splash/{key}": x for key, x in long.items()}
    assert eight.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(eight[name], value, atol=1e-5, err_msg=name)
    assert min(np.abs(one[key]).max() for key in "qkv") > 0.1


def layout_of(platform: str, **axes: int) -> Layout:
    """What `attention_on` reads of a layout on another platform."""
    shape = {axis: axes.get(axis, 1) for axis in AXES}
    devices = np.full(tuple(shape.values()), SimpleNamespace(platform=platform), object)
    return Layout(SimpleNamespace(devices=devices, shape=shape))


@pytest.mark.parametrize(
    ("platform", "backend", "message"),
    [
        ("cpu", "flash", r"There is no attention 'flash'; set config\.model\.attention to auto, xla, splash, cudnn\."),
        ("cpu", "splash", r"The attention 'splash' needs a TPU and the mesh is on CPU; .* to auto\."),
        ("tpu", "cudnn", r"The attention 'cudnn' needs a GPU and the mesh is on TPU"),
    ],
)
def test_a_backend_that_is_unknown_or_that_the_platform_lacks_is_refused(
    platform: str, backend: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        attention_on(layout_of(platform), backend)


@pytest.mark.parametrize(("platform", "kernel"), [("cpu", "packed"), ("tpu", "splash"), ("gpu", "cudnn")])
def test_auto_takes_the_kernel_made_for_the_platform(
    platform: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    monkeypatch.setattr("dsmath_jax.training.attention.sharded", lambda attend, layout: chosen.append(attend.__name__))
    attention_on(layout_of(platform))
    attention_on(layout_of(platform), "xla")
    assert chosen == [f"{kernel}_attention", "packed_attention"]


def test_rows_that_do_not_divide_by_the_context_axis_are_refused() -> None:
    given = inputs(2, 30, 2, 2, 4)
    with pytest.raises(UserError, match=r"Rows of 30 tokens are not divisible by the mesh's context=4; change seq"):
        attention_on(layout_of("cpu", context=4))(*given[:3], given[4])


@pytest.mark.parametrize("spec", [AttentionSpec(), AttentionSpec(scale=0.3, window=5)])
def test_the_mask_for_cudnn_is_the_one_of_packed_attention(spec: AttentionSpec) -> None:
    given = inputs(2, 24, 4, 2, 8)

    def by_mask(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, mask=visible_mask(ids, 24, spec=spec), scale=spec.scale)

    one, other = compute(by_mask, *given), compute(functools.partial(packed_attention, spec=spec), *given)
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=5e-6, err_msg=name)
    np.testing.assert_array_equal(visible_mask(given[4], 8, jnp.int32(16)), visible_mask(given[4], 24)[:, :, 16:])


@pytest.mark.parametrize(
    ("tokens", "size", "dtype", "spec"),
    [
        (24, 8, jnp.float32, AttentionSpec(window=4)),
        (25, 8, jnp.bfloat16, AttentionSpec()),
        (24, 12, jnp.bfloat16, AttentionSpec()),
        (24, 8, jnp.bfloat16, AttentionSpec(softcap=50.0)),
    ],
)
def test_cudnn_passes_unsupported_inputs_to_packed_attention(
    tokens: int, size: int, dtype: Any, spec: AttentionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cudnn, "packed_attention", lambda *given: given)
    q, k, v, _, ids = inputs(1, tokens, 2, 2, size)
    q = q.astype(dtype)
    assert cudnn.cudnn_attention(q, k, v, ids, 0, spec) == (q, k, v, ids, 0, spec)


@pytest.mark.parametrize("spec", [AttentionSpec(), AttentionSpec(scale=0.3, window=100)])
def test_cudnn_equals_packed_attention_on_a_gpu(layout: Layout, spec: AttentionSpec) -> None:
    if layout.mesh.devices.flat[0].platform != "gpu":
        pytest.skip("the cuDNN kernel needs an NVIDIA GPU")
    given = inputs(2, 512, 4, 2, 64)
    arrays = (*(x.astype(jnp.bfloat16) for x in given[:4]), given[4])
    attend = {name: functools.partial(attention_on(layout, name), spec=spec) for name in ("cudnn", "xla")}
    one, other = (compute(attend[name], *arrays) for name in ("cudnn", "xla"))
    for name, value in one.items():
        assert np.isfinite(np.float32(value)).all(), name
        largest = np.abs(np.float32(other[name])).max()
        np.testing.assert_allclose(np.float32(value), np.float32(other[name]), atol=0.02 * largest, err_msg=name)


if __name__ == "__main__":
    np.savez(sys.argv[1], **on_eight_devices())
