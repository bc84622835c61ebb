"""Compiles the programs of the stage `rl` for a TPU topology, without TPUs, and sums up its memory in each phase.

The programs are those that the stage runs: the sampler's, the reference's log-probabilities, the reward model's scores
and the update. In addition to its program, a phase needs memory for what stays on the devices: policy, optimizer,
reference and reward model. Each term is XLA's peak or exact; their sum assumes that buffers are not shared.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dsmath_jax.aot.step import FULL_REMAT, Slice, capture_stderr, compile_program, make_slice, stage_of
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.algorithms import METHODS
from dsmath_jax.rl.batches import batch_of, bucketed_length, length_multiple, padded_length
from dsmath_jax.rl.reward_model.model import token_scores, with_reward_head
from dsmath_jax.rl.scoring import INPUTS
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.abstract import abstract_inputs
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.engine import Engine
from dsmath_jax.sampling.sampler import CHUNK
from dsmath_jax.sampling.scheduler import bucket_length, cache_lengths, slot_shape
from dsmath_jax.sampling.token_sampling import SamplingMode
from dsmath_jax.sharding import Layout
from dsmath_jax.training.flops import HBM_BYTES
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import TrainState, abstract_state, make_train_step
from dsmath_jax.workdir import UserError

Programs = dict[str, Callable[[], Any]]  # name -> function that lowers it


def compile_rl(recipe: Recipe, topology: str) -> dict[str, Any]:
    """Lowers and compiles the programs of the stage `rl` of `recipe` for `topology`.

    Returns:
      `Slice.describe`, and per device:
      `programs`: by name, see `step.compile_program`: "prefill" and "decode" (the sampler), "reference"
        (log-probabilities of one micro-batch), "reward model" (scores of a rollout) and "update".
      `residents`: bytes of what stays on the devices: "policy", "optimizer", "reference", "reward model".
      `phases`: bytes in the phases "sample", "score" and "update", by part.
      `hbm_bytes`: the bytes of the largest phase; `fits`: whether the chip has them and no program was refused.
      `stage`, `method`, `rows` of a batch, their `tokens`, `grad_accum_steps`, `full_rematerializations`.

    Raises:
      UserError: the topology, the mesh or a field is invalid, libtpu is missing, or batch sizes depend on data.
    """
    settings: RLSettings = stage_of(recipe, "rl")
    if METHODS[settings.method].completions != "policy":
        raise UserError(
            f"rl.method={settings.method} learns from stored samples, whose lengths are not known; "
            "use a method that samples from the policy."
        )
    with capture_stderr() as warnings:
        target = make_slice(recipe, topology)
        state = policy_state(settings, target)
        sampling, weights = sampling_programs(settings, target)
        lowered = sampling | scoring_programs(settings, target)
        lowered["update"] = functools.partial(_lower_update, settings, target, state)
        programs = {name: compile_program(lower) for name, lower in lowered.items()}
    residents = {"policy": shard_bytes(state.params), "optimizer": shard_bytes(state.opt_state)}
    if settings.algorithm.needs_reference:
        residents["reference"] = shard_bytes(model_params(target))
    if settings.reward_stage:
        residents["reward model"] = shard_bytes(reward_params(target))
    by_phase = phases(programs, residents, weights, on_host=settings.reference == "host")
    peak = max(sum(parts.values()) for parts in by_phase.values())
    capacity = HBM_BYTES[target.kind]
    return target.describe() | {
        "stage": "rl",
        "method": settings.method,
        "rows": settings.samples_per_step,
        "new_tokens": settings.max_new_tokens,
        "tokens": row_length(settings, target.layout),
        "grad_accum_steps": settings.grad_accum_steps,
        "programs": programs,
        "residents": residents,
        "phases": by_phase,
        "hbm_bytes": peak,
        "fits": peak <= capacity and all(each["memory"] is not None for each in programs.values()),
        "full_rematerializations": warnings[0].count(FULL_REMAT),
    }


def compile_sampler(recipe: Recipe, topology: str) -> dict[str, Any]:
    """Compiles only the sampler, as configured by the recipe's part `rl`; returns some fields of `compile_rl`'s result.

    Raises:
      UserError: the topology, the mesh or a field is invalid, or libtpu is missing.
    """
    settings: RLSettings = stage_of(recipe, "rl")
    with capture_stderr() as warnings:
        target = make_slice(recipe, topology)
        lowered, weights = sampling_programs(settings, target)
        programs = {name: compile_program(lower) for name, lower in lowered.items()}
    parts = sampling_parts(programs, weights)
    peak = sum(parts.values())
    fits = peak <= HBM_BYTES[target.kind] and all(each["memory"] is not None for each in programs.values())
    return target.describe() | {
        "stage": "sample",
        "rows": settings.num_decode_slots,
        "new_tokens": settings.max_new_tokens,
        "programs": programs,
        "phases": {"sample": parts},
        "hbm_bytes": peak,
        "fits": fits,
        "full_rematerializations": warnings[0].count(FULL_REMAT),
    }


def phases(
    programs: dict[str, dict], residents: dict[str, int], weights: int, on_host: bool
) -> dict[str, dict[str, int]]:
    """Returns the bytes on a device in each phase, by part.

    A program counts as what it needs above the residents among its arguments. A reference in host memory is on the
    devices only while it scores. `weights` are the bytes of the sampler's weights.
    """
    permanent = {name: size for name, size in residents.items() if not (on_host and name == "reference")}

    def above(program: str, *arguments: str) -> int:
        return max(0, programs[program]["hbm_bytes"] - sum(residents[name] for name in arguments))

    scoring = [above(name, name) for name in ("reference", "reward model") if name in programs]
    moved = {"reference, brought in": residents["reference"]} if "reference" in residents and on_host else {}
    return {
        "sample": permanent | sampling_parts(programs, weights),
        "score": permanent | moved | {"scoring, above its model": max(scoring, default=0)},
        "update": permanent | {"update, above its state": above("update", "policy", "optimizer")},
    }


def sampling_parts(programs: dict[str, dict], weights: int) -> dict[str, int]:
    """Returns the bytes of the weights in the decode layout, and the most that a program of the sampler needs above it.

    The weights are among the arguments of all programs except "grow".
    """
    sizes = {name: programs[name]["hbm_bytes"] for name in ("prefill", "decode", "grow") if name in programs}
    sizes |= {name: size - weights for name, size in sizes.items() if name != "grow"}
    return {"weights to decode with": weights, "cache, and sampling above it": max(sizes.values())}


def row_length(settings: RLSettings, layout: Layout) -> int:
    """Returns the length T of a batch that has a row of the largest allowed length."""
    longest = settings.max_prompt_tokens + settings.max_new_tokens - 1
    return bucketed_length(longest, longest, length_multiple(longest, layout))


def model_params(target: Slice) -> Any:
    """Returns the abstract parameters of the decoder with their shardings."""
    return target.layout.abstract(jax.eval_shape(lambda: initial_params(target.model, jax.random.key(0))))


def reward_params(target: Slice) -> Any:
    """Returns the abstract parameters of a decoder with a reward head."""
    hidden_size = target.model.config.hidden_size
    shapes = jax.eval_shape(lambda: with_reward_head(initial_params(target.model, jax.random.key(0)), hidden_size))
    return target.layout.abstract(shapes)


def policy_state(settings: RLSettings, target: Slice) -> TrainState:
    """Returns the abstract train state: the policy, with PPO's value model, and AdamW's moments."""
    read = functools.partial(initial_params, target.model, jax.random.key(0))
    make = functools.partial(settings.algorithm.initial_params, read, target.model.config.hidden_size)
    return abstract_state(make, make_optimizer(settings), target.layout)


def abstract_batch(settings: RLSettings, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the abstract batch of an update, with the fields that a rollout makes."""
    example = batch_of([[0]], [Completion(0, 0, [0], [0.0], [0.0], "eos")], row_length(settings, layout))
    extra = {
        "advantages": True,
        "old_logprobs": settings.num_updates > 1 or settings.algorithm.has_values or settings.old_logprobs == "sampler",
        "ref_logprobs": settings.algorithm.needs_reference,
        "old_values": settings.algorithm.has_values,
        "returns": settings.algorithm.has_values,
    }
    example |= {name: example["sampler_logprobs"] for name, used in extra.items() if used}
    return layout.abstract_batch(example, settings.samples_per_step)


def _lower_update(settings: RLSettings, target: Slice, state: TrainState) -> Any:
    step = make_train_step(
        settings.algorithm.loss, target.model, make_optimizer(settings), target.layout, state, settings.grad_accum_steps
    )
    return step.lower(state, abstract_batch(settings, target.layout))


def scoring_programs(settings: RLSettings, target: Slice) -> Programs:
    """Returns the programs of frozen models: the reference for a micro-batch, the reward model for a rollout."""
    model, layout, rows = target.model, target.layout, settings.samples_per_step
    programs: Programs = {}
    if settings.algorithm.needs_reference:
        logprobs = jax.jit(lambda params, batch: batch_logprobs(model, params, batch, settings.temperature)[0])
        fields = {name: x for name, x in abstract_batch(settings, layout).items() if name in INPUTS}
        micro = {
            name: jax.ShapeDtypeStruct((rows // settings.grad_accum_steps, *x.shape[1:]), x.dtype, sharding=x.sharding)
            for name, x in fields.items()
        }
        programs["reference"] = lambda: logprobs.lower(model_params(target), micro)
    if settings.reward_stage:
        scores = jax.jit(functools.partial(token_scores, model), out_shardings=layout.replicated)
        length = padded_length(settings.max_prompt_tokens + settings.max_new_tokens, layout)
        example = {name: np.zeros((1, length), np.int32) for name in INPUTS if name != "targets"}
        batch = layout.abstract_batch(example, rows)
        programs["reward model"] = lambda: scores.lower(reward_params(target), batch)
    return programs


def sampling_programs(settings: RLSettings, target: Slice) -> tuple[Programs, int]:
    """Returns the sampler's programs with the largest cache, and the bytes of the weights that they read.

    "prefill" computes the prompts of a rollout, "decode" a chunk of decode steps. "grow" doubles the length of the
    cache before the last chunks, while the old cache still exists.
    """
    rows, layout = settings.num_decode_slots, target.layout
    engine = Engine(target.model, layout, (0,), settings.max_new_tokens, CHUNK, settings.cache_dtype)
    slots = slot_shape(rows, settings.prompts_per_step, settings.group_size, layout.batch_shards)
    *shorter, longest = cache_lengths(settings.max_new_tokens)
    shape = (engine, *slots, bucket_length(settings.max_prompt_tokens))
    widest = abstract_inputs(*shape, longest)
    mode = SamplingMode(False, settings.top_k > 0, settings.top_p < 1)
    programs: Programs = {
        "prefill": lambda: engine.prefill.lower(*widest.prefill),
        "decode": lambda: engine.decode.lower(*widest.decode, mode=mode),
    }
    if shorter:
        state, position = abstract_inputs(*shape, shorter[-1]).decode[1], widest.decode[3].position
        programs["grow"] = lambda: engine.resize.lower(state.cache, position, longest)
    return programs, shard_bytes(widest.decode[0])


def shard_bytes(tree: Any) -> int:
    """Returns the bytes of abstract arrays on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))
