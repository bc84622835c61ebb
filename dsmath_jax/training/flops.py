"""Model FLOPs by formula and peak FLOP/s of devices, for MFU."""

import jax

from dsmath_jax.models.config import ModelConfig

# Dense bfloat16 FLOP/s of one JAX device by its `device_kind`, from the vendors' data sheets.
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5": 459e12,  # v5p, as libtpu names it
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# Memory available to a program, in bytes. TPUs: XLA's "available HBM", which leaves out what the runtime reserves;
# GPUs: the data sheet's.
HBM_BYTES: dict[str, int] = {
    "TPU v4": int(30.5 * 2**30),
    "TPU v5 lite": int(15.75 * 2**30),
    "TPU v5": int(95.74 * 2**30),
    "TPU v5p": int(95.74 * 2**30),
    "TPU v6 lite": int(31.25 * 2**30),
    "NVIDIA A100-SXM4-40GB": 40 * 10**9,
    "NVIDIA A100-SXM4-80GB": 80 * 10**9,
    "NVIDIA A100 80GB PCIe": 80 * 10**9,
    "NVIDIA H100 PCIe": 80 * 10**9,
    "NVIDIA H100 80GB HBM3": 80 * 10**9,
    "NVIDIA H200": 141 * 10**9,
}


def matmul_parameters(config: ModelConfig) -> int:
    """Returns the number of parameters in matrix products: the layers' matrices and the head (tied or not).

    The embedding is a lookup, and norm scales are not counted.
    """
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)  # of q and o, k and v
    attention = config.hidden_size * config.head_dim * heads
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (attention + feed_forward) + config.hidden_size * config.vocab_size


def model_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Returns the model FLOPs of training per token, forward and backward.

        6 x (matmul parameters) + 6 x L x N x H x T

    With a sliding window of W < T tokens, T becomes 2 W - W^2 / T in the layers that have it.

    A product of a token with a matrix is 2 FLOPs per parameter, and the backward pass has two such products. Attention
    is scores and weighted values, 2 x 2 x N x H per pair of tokens and layer, times three with the backward pass. It is
    causal: a token sees T/2 others on average, so the masked half is not counted. Neither are rematerialization, norms,
    softmax and the optimizer; packing is ignored.
    """
    full, window = sequence_length, min(config.sliding_window, sequence_length)
    within = 2 * window - window**2 / max(full, 1)
    pairs = sum(within if sliding else full for sliding in config.sliding_layers)
    return float(6 * (matmul_parameters(config) + config.num_attention_heads * config.head_dim * pairs))


def mfu(flops_per_token: float, tokens_per_second: float) -> float | None:
    """Returns the model FLOPs utilization: model FLOP/s over the peak of all devices; None for unknown devices."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return None if peak is None else flops_per_token * tokens_per_second / (peak * jax.device_count())
