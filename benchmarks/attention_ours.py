"""The sides of `benchmarks.attention` that run on jax.

    python -m benchmarks.attention_ours FOLDER ours|plain

FOLDER holds `inputs.npz`: q, k, v and weight [B,T,N,H], segment_ids [B,T].
"""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import turns
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.attention import attention_on


def plain(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
    """All scores at once, in float32, and what autodiff keeps of them."""
    seen = jnp.tril(segment_ids[:, :, None] == segment_ids[:, None, :])
    scores = jnp.einsum("BTNH,BSNH->BNTS", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v)


def prepare(folder: Path, form: str) -> tuple[dict, Callable[[], dict]]:
    """A weighted sum of the outputs and its gradients, compiled and run once; on the first device."""
    device = jax.devices()[0]
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    attention = attention_on(Layout(make_mesh(MeshSettings(fsdp=1), devices=[device]))) if form == "ours" else plain
    with np.load(folder / "inputs.npz") as file:
        q, k, v, weight = (jnp.asarray(file[name], dtype) for name in ("q", "k", "v", "weight"))
        segment_ids = jnp.asarray(file["segment_ids"])

    @jax.jit
    def gradient(q: Array, k: Array, v: Array, weight: Array, ids: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        loss = lambda q, k, v: jnp.vdot(attention(q, k, v, ids), weight, preferred_element_type=jnp.float32)  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)

    inputs = (q, k, v, weight, segment_ids)
    compiled = gradient.lower(*inputs).compile()
    held = turns.resident_bytes() if device.platform == "cpu" else sum(each.nbytes for each in inputs)

    def run() -> dict:
        jax.block_until_ready(compiled(*inputs))
        stats = device.memory_stats() if device.platform != "cpu" else None
        return {"peak_bytes": stats["peak_bytes_in_use"]} if stats else {}

    loss, gradients = compiled(*inputs)
    values = [float(loss), *(float(np.linalg.norm(np.float64(each))) for each in gradients)]
    ready = {"held_bytes": held, "dtype": jnp.dtype(dtype).name, "version": f"jax {jax.__version__}"}
    return ready | {"values": values}, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1]), sys.argv[2]))
