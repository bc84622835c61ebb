"""Model FLOPs by formula, and MFU."""

import jax

from dsmath_jax.hardware import chip_of
from dsmath_jax.models.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Returns the number of parameters in matrix products: the layers' matrices and the head (tied or not).

    The embedding is a lookup, and norm scales are not counted.
    """
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)  # of q and o, k and v
    attention = config.hidden_size * config.head_dim * heads
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (attention + feed_forward) + config.hidden_size * config.vocab_size


def model_flops_per_token(config: ModelConfig, sequence_length: int, adapters: int = 0) -> float:
    """Returns the model FLOPs of training per token, forward and backward.

        6 x (matmul parameters) + 6 x L x N x H x T

    With a sliding window of W < T tokens, T becomes 2 W - W^2 / T in the layers that have it.

    A product of a token with a matrix is 2 FLOPs per parameter, and the backward pass has two such products. Attention
    is scores and weighted values, 2 x 2 x N x H per pair of tokens and layer, times three with the backward pass. It is
    causal: a token sees T/2 others on average, so the masked half is not counted. Neither are rematerialization, norms,
    softmax and the optimizer; packing is ignored.

    With LoRA the gradients of matrices are not computed: 4 x (matmul parameters) + 6 x `adapters`, the number of the
    adapters' parameters, in place of the first term.
    """
    full, window = sequence_length, min(config.sliding_window, sequence_length)
    within = 2 * window - window**2 / max(full, 1)
    pairs = sum(within if sliding else full for sliding in config.sliding_layers)
    products = 4 * matmul_parameters(config) + 6 * adapters if adapters else 6 * matmul_parameters(config)
    return float(products + 6 * config.num_attention_heads * config.head_dim * pairs)


def mfu(flops_per_token: float, tokens_per_second: float) -> float | None:
    """Returns the model FLOPs utilization: model FLOP/s over the peak of all devices; None for unknown devices."""
    chip = chip_of(jax.devices()[0].device_kind)
    return None if chip is None else flops_per_token * tokens_per_second / (chip.peak_flops * jax.device_count())
