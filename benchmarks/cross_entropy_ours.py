"""The sides of `benchmarks.cross_entropy` that run on jax.

    python -m benchmarks.cross_entropy_ours FOLDER chunked|plain

FOLDER holds `hidden.npy` [1,T,D], `head.npy` [D,V] and `targets.npy` [1,T].
"""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import turns
from dsmath_jax.models.logprobs import token_logprobs


def chunked(hidden: Array, targets: Array, head: Array) -> Array:
    """The mean cross-entropy as objectives take it."""
    return -jnp.mean(token_logprobs(hidden, targets, head)[0])


def plain(hidden: Array, targets: Array, head: Array) -> Array:
    """The same from all logits at once, in float32."""
    logits = jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=jnp.float32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))


FORMS = {"chunked": chunked, "plain": plain}


def prepare(folder: Path, form: str) -> tuple[dict, Callable[[], dict]]:
    """Loss and both gradients, compiled and run once."""
    inputs = [jnp.asarray(np.load(folder / f"{name}.npy")) for name in ("hidden", "targets", "head")]

    @jax.jit
    def gradient(hidden: Array, targets: Array, head: Array) -> tuple[Array, tuple[Array, Array]]:
        return jax.value_and_grad(FORMS[form], argnums=(0, 2))(hidden, targets, head)

    compiled = gradient.lower(*inputs).compile()
    memory = compiled.memory_analysis()
    device = jax.devices()[0]
    before = turns.resident_bytes()

    def run() -> dict:
        loss, gradients = jax.block_until_ready(compiled(*inputs))
        norms = [float(jnp.linalg.norm(each)) for each in gradients]
        stats = device.memory_stats() if device.platform != "cpu" else None
        return {"values": [float(loss), *norms]} | ({"peak_bytes": stats["peak_bytes_in_use"]} if stats else {})

    ready = {
        "inputs_bytes": sum(each.nbytes for each in inputs),
        "resident_bytes": before,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "device": device.device_kind,
        "version": f"jax {jax.__version__}",
    }
    return run() | ready, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1]), sys.argv[2]))
