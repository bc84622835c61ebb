"""Lower bounds of the time and the memory of a step or a rollout, before anything is compiled."""

import functools

import numpy as np

from dsmath_jax.aot.bound import Bound, bound_of
from dsmath_jax.aot.collectives import Collective
from dsmath_jax.aot.costs import Costs
from dsmath_jax.aot.rl import (
    NOTHING,
    frozen_params,
    model_params,
    num_forwards,
    policy_params,
    policy_state,
    reward_params,
    ring_lengths,
    row_shapes,
    sampler_shape,
)
from dsmath_jax.aot.step import Target, shard_bytes
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.quantization import INT8
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.abstract import StateLengths, abstract_inputs
from dsmath_jax.training.flops import matmul_parameters, model_flops_per_token
from dsmath_jax.training.next_token import abstract_frozen
from dsmath_jax.training.next_token import abstract_inputs as abstract_inputs_of_step
from dsmath_jax.training.settings import PackedSettings, SFTSettings
from dsmath_jax.training.step import TrainState

StageSettings = PackedSettings | RLSettings

# Matrix products of attention by remat policy, at least; `model_flops_per_token` counts six. A backward pass computes
# the scores again, and `full` the forward pass too.
ATTENTION_PRODUCTS = {"minimal": 7, "full": 9}


def lower_bounds(target: Target, settings: StageSettings) -> list[Bound]:
    """Returns a bound for the train step, or for each phase of RL, that is known before compiling."""
    update = _update_bound(target, settings)
    if not isinstance(settings, RLSettings):
        return [update]
    updates = update.times(settings.steps_per_rollout)
    return [updates, _scoring_bound(target, settings), _sampling_bound(target, settings)]


def min_bytes(target: Target, settings: StageSettings) -> int:
    """Returns bytes that a device needs at least: the models, gradients, and what `remat` saves of the layers."""
    state, others = _models(target, settings)
    rows, length = _batch_shape(target, settings)
    tokens = rows * length / settings.grad_accum_steps / target.layout.batch_shards
    saved = 2 * tokens * _saved_per_token(target.model.config, target.layout.mesh.shape["tensor"])
    return shard_bytes(state) + shard_bytes(state.params) + others + int(saved)


def min_sampling_bytes(target: Target, settings: RLSettings) -> int:
    """Returns bytes that a device needs at least to sample: models, weights to decode with, and the KV cache."""
    state, others = _models(target, settings)
    (engine, shape, prompt_length), params = sampler_shape(settings, target), policy_params(settings, target)
    lengths = StateLengths(prompt_length, ring_lengths(settings)[-1])
    weights, decoding, *_ = abstract_inputs(engine, shape, lengths, params).decode
    return shard_bytes(state) + others + shard_bytes((weights, decoding))


def _models(target: Target, settings: StageSettings) -> tuple[TrainState, int]:
    """Returns the abstract train state, and the bytes of the other models that stay on a device."""
    if not isinstance(settings, RLSettings):
        state, _ = abstract_inputs_of_step(settings, target.model, target.layout)
        return state, shard_bytes(abstract_frozen(settings, target.model, target.layout).params)
    others = 0
    if settings.lora:
        others += shard_bytes(frozen_params(target))
    elif settings.algorithm.needs_reference and settings.reference_memory == "device":
        others += shard_bytes(model_params(target))
    if settings.reward_stage:
        others += shard_bytes(reward_params(target))
    return policy_state(settings, target), others


def num_rows(settings: StageSettings) -> int:
    """Returns the rows of a step's batch."""
    return settings.rows_per_step if isinstance(settings, RLSettings) else settings.batch_size


def _batch_shape(target: Target, settings: StageSettings) -> tuple[int, int]:
    """Returns the rows of a step's batch, and the tokens of a row."""
    rows = num_rows(settings)
    if isinstance(settings, RLSettings):
        return rows, row_shapes(settings, target.layout).row_length
    return rows, settings.sequence_length


def _saved_per_token(config: ModelConfig, tensor: int) -> float:
    """Returns how many numbers of a token are saved in all layers: their inputs, and with `minimal` the products."""
    if config.remat != "minimal":
        return config.num_hidden_layers * config.hidden_size
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return config.num_hidden_layers * (2 * config.hidden_size + (heads + 2 * config.intermediate_size) / tensor)


def _update_bound(target: Target, settings: StageSettings) -> Bound:
    """Bounds the products, and the gathers and reductions that the mesh cannot do without.

    Every weight is gathered in bfloat16 for the forward and the backward pass of each micro-batch, its gradient is
    scattered once for each and reduced over replicas once, and a layer reduces its activations four times over tensor.
    With LoRA, weights have no gradients; adapters are not counted.
    """
    config, mesh = target.model.config, target.layout.mesh
    rows, length = _batch_shape(target, settings)
    sizes, devices, n = dict(mesh.shape), mesh.size, settings.grad_accum_steps
    weights = 2 * matmul_parameters(config) / sizes["tensor"]
    tokens = rows * length * sizes["tensor"] / devices  # of a device in a step
    along = functools.partial(_groups, sizes)
    of_gradients = [
        Collective("reduce-scatter", n, weights, along("fsdp")),
        Collective("all-reduce", 1, weights / sizes["fsdp"], along("replica")),
    ]
    needed = [
        *([] if _frozen(settings) else of_gradients),
        Collective("all-gather", 2 * n, weights / sizes["fsdp"], along("fsdp")),
        Collective("all-reduce", 4 * config.num_hidden_layers, 2 * tokens * config.hidden_size, along("tensor")),
    ]
    flops = _step_flops_per_token(config, length, _frozen(settings)) * rows * length / devices
    costs = Costs(flops, collectives={(str(i),): each for i, each in enumerate(needed)})
    return bound_of(costs, target.topology.chip, mesh.devices.flat)


def _frozen(settings: StageSettings) -> bool:
    """Whether the matrices are not trained, but adapters."""
    return isinstance(settings, RLSettings | SFTSettings) and settings.lora is not None


def _step_flops_per_token(config: ModelConfig, length: int, frozen: bool = False) -> float:
    """Returns the least FLOPs of a step: `full` repeats all products of a layer but the last; logits always are.

    Frozen matrices have no product of their gradients.
    """
    logits = 2.0 * config.hidden_size * config.vocab_size
    products = 2.0 * matmul_parameters(config) - logits
    attention = model_flops_per_token(config, length) - 3 * products - 3 * logits
    last = 2.0 * config.num_hidden_layers * config.hidden_size * config.intermediate_size
    again = products - last if config.remat == "full" else 0.0
    return (3 - frozen) * products + again + (4 - frozen) * logits + ATTENTION_PRODUCTS[config.remat] / 6 * attention


def _scoring_bound(target: Target, settings: RLSettings) -> Bound:
    """Bounds the products of the forward passes; a reward model computes no logits."""
    config, (_, length) = target.model.config, _batch_shape(target, settings)
    forward = model_flops_per_token(config, length) / 3
    flops = num_forwards(settings) * forward
    if settings.reward_stage:
        flops += forward - 2 * config.hidden_size * config.vocab_size
    return NOTHING._replace(
        compute=flops * settings.samples_per_step * length / target.layout.mesh.size / target.topology.chip.peak_flops
    )


def _sampling_bound(target: Target, settings: RLSettings) -> Bound:
    """Bounds the products of decoding, and reading the weights, which are not split over fsdp, and the KV cache.

    Arrays that a GPU's L2 cache may hold are free, as in `aot.traffic`. A short KV cache may be one, so on GPUs the KV
    cache is left out.
    """
    config, mesh, chip = target.model.config, target.layout.mesh, target.topology.chip
    samples, new_tokens = settings.samples_per_step, settings.max_new_tokens
    of_cache, of_weights = (1 if dtype == INT8 else 2 for dtype in (settings.cache_dtype, settings.decode_weight_dtype))
    cached = 2 * of_cache * config.num_key_value_heads * config.head_dim * config.num_hidden_layers  # bytes of a token
    read = settings.prompts_per_step * settings.started_per_prompt / settings.num_decode_slots * new_tokens
    read *= _weight_bytes(config, mesh.shape["tensor"], of_weights, chip.cache)
    read += 0 if chip.cache else samples * new_tokens**2 / 2 * cached / mesh.size
    flops = 2.0 * matmul_parameters(config) * samples * new_tokens / mesh.size
    return NOTHING._replace(compute=flops / chip.peak_flops, memory=read / chip.memory_bandwidth)


def _weight_bytes(config: ModelConfig, tensor: int, each: int, cache: int) -> float:
    """Returns the bytes of a device's weights with `each` bytes, without matrices that fit its cache."""
    layers, hidden_size, head_dim = config.num_hidden_layers, config.hidden_size, config.head_dim
    matrices = [
        (2 * layers, hidden_size * head_dim * config.num_attention_heads),
        (2 * layers, hidden_size * head_dim * config.num_key_value_heads),
        (3 * layers, hidden_size * config.intermediate_size),
        (1, hidden_size * config.vocab_size),
    ]
    sizes = [(count, each * size / tensor) for count, size in matrices]
    return sum(count * size for count, size in sizes if size > cache)


def _groups(sizes: dict[str, int], axis: str) -> np.ndarray:
    """Returns the groups of devices along an axis of the mesh."""
    grid = np.arange(int(np.prod(list(sizes.values())))).reshape(tuple(sizes.values()))
    return np.moveaxis(grid, list(sizes).index(axis), -1).reshape(-1, sizes[axis])
