"""FLOPs of HLO instructions: matrix products, and the kernels whose work is known.

TPU compilers write products as convolutions. Elementwise work is left out.
"""

import functools
import json
import math
import re

from dsmath_jax.aot.hlo import Computation, Instruction

# Splash attention's kernels: number of products like that of a query and a key vector for each pair of tokens.
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}

NO_PRODUCTS = frozenset(  # custom calls of the TPU compiler that move or mark data
    (
        "AllocateBuffer", "AssumeGatherIndicesInBound", "AsyncCollectiveDone", "AsyncCollectiveStart", "ConcatBitcast",
        "ConsumeFuture", "GatherScatterIndicesBitpacked", "Sharding",
    )
)  # fmt: skip


def dot_flops(i: Instruction, scope: Computation) -> float:
    """Returns the FLOPs of a product: two for each multiplication and addition."""
    contracted = [int(n) for n in (i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "").split(",") if n]
    left = scope[i.operands[0]].arrays[0].shape
    return 2.0 * math.prod(i.arrays[0].shape) * math.prod(left[n] for n in contracted)


def convolution_flops(i: Instruction, scope: Computation) -> float:
    """Counts two FLOPs for each product; window positions in the padding or between dilated elements have none."""
    left, kernel, out = i.required(r"dim_labels=(\w+_\w+->\w+)").replace("->", "_").split("_")
    inputs, weights = (scope[name].arrays[0].shape for name in i.operands)
    result = i.arrays[0].shape
    stated = re.findall(r"(\w+)=([\dx_\-]+)", i.attribute(r"window=\{([^}]*)\}") or "")
    window = {name: value.split("x") for name, value in stated}
    products = result[out.index("b")] * result[out.index("f")] * weights[kernel.index("i")]
    for d in range(len(left) - 2):

        def setting(name: str, default: str, d: int = d) -> str:
            return window[name][d] if name in window else default

        products *= _num_products(
            inputs[left.index(str(d))], weights[kernel.index(str(d))], result[out.index(str(d))],
            stride=int(setting("stride", "1")), low=int(setting("pad", "0_0").split("_")[0]),
            base_dilation=int(setting("lhs_dilate", "1")), window_dilation=int(setting("rhs_dilate", "1")),
        )  # fmt: skip
    return 2.0 * products / int(i.attribute(r"batch_group_count=(\d+)") or 1)


@functools.cache
def _num_products(
    size: int, window: int, out: int, *, stride: int, low: int, base_dilation: int, window_dilation: int
) -> int:
    """Counts, in one dimension, the pairs of an output and a window position that meet an element of the input."""
    pairs = 0
    for w in range(window):
        # Output o meets the dilated input at o * stride + w * window_dilation - low.
        offset = w * window_dilation - low
        pairs += sum(
            1 for o in range(out)
            if (o * stride + offset) % base_dilation == 0 and 0 <= (o * stride + offset) // base_dilation < size
        )  # fmt: skip
    return pairs


def kernel_flops(i: Instruction, scope: Computation) -> tuple[str, float | None]:
    """Returns the name of a kernel and its FLOPs, None if they are not known; ("", 0) for calls without products.

    The FLOPs of a Pallas kernel are those of its cost estimate. Attention under a causal mask counts half of the pairs.
    """
    target = i.attribute(r'custom_call_target="([^"]+)"') or ""
    if target == "tpu_custom_call":
        name = re.sub(r"\.\d+$", "", i.name)
        if estimate := re.search(r'"cost_estimate":(\{[^}]*\})', i.text):
            return name, float(json.loads(estimate[1])["flops"])
        if products := next((n for kernel, n in SPLASH.items() if name.startswith(kernel)), 0):
            arrays = (a for name in i.operands for a in scope[name].arrays)
            q, k, *_ = (a.shape for a in arrays if a.dtype in ("bf16", "f32") and len(a.shape) > 2)
            return name, products * math.prod(q) * k[-2]  # 2 FLOPs, half of the pairs
        return name, None
    if target.startswith("__cudnn$fmha"):
        return target, _cudnn_attention_flops(i, scope, target)
    if target.startswith("__cublas$"):
        return target, _cublas_flops(i, scope)
    return ("", 0.0) if target in NO_PRODUCTS else (target, None)


def _cudnn_attention_flops(i: Instruction, scope: Computation, target: str) -> float:
    """Counts the products of cuDNN's attention: two forward, five backward, with the scores recomputed."""
    scores = [int(n) for n in _listed(i, r'"intermediate_tensor_shape": ?\{[^[]*"dimensions"')]  # B, N, T, S
    head_dim = scope[i.operands[0]].arrays[0].shape[-1]
    seen = 0.5 if '"mask_type": "CAUSAL"' in i.text or '"mask_type":"CAUSAL"' in i.text else 1.0
    return seen * 2.0 * (5 if target.endswith("Backward") else 2) * math.prod(scores) * head_dim


def _cublas_flops(i: Instruction, scope: Computation) -> float:
    left = scope[i.operands[0]].arrays[0].shape
    contracted = _listed(i, '"lhs_contracting_dimensions"')
    return 2.0 * math.prod(i.arrays[0].shape) * math.prod(left[int(n)] for n in contracted)


def _listed(i: Instruction, field: str) -> list[str]:
    """Returns the strings of a list in an instruction's backend config."""
    match = re.search(field + r": ?\[([^\]]*)\]", i.text)
    if match is None:
        raise ValueError(f"the HLO instruction {i.name} ({i.opcode}) has no field {field}")
    return re.findall(r'"(\d+)"', match[1])
