"""Compiles the programs of the stage `rl` for TPUs that are only described, and adds up what it holds in each phase.

The programs are those that the stage runs: the sampler's, the reference's log-probabilities, the reward model's scores
and the update. A phase holds besides its program what the stage keeps throughout: policy, optimizer, reference and
reward model. Each of the terms is XLA's or exact, their sum supposes that none of them takes another's place.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dsmath_jax.aot.step import RELAID, Slice, captured_stderr, compiled_program, described_slice, stage_of
from dsmath_jax.models.llama import initial_params
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

Programs = dict[str, Callable[[], Any]]  # what lowers each


def compile_rl(recipe: Recipe, topology: str) -> dict[str, Any]:
    """Lowers and compiles the programs of the stage `rl` of `recipe` for `topology`.

    Returns:
      `Slice.facts`, and per device:
      `programs`: by name, see `step.compiled_program`: "prefill" and "decode" (the sampler), "reference"
        (log-probabilities of one micro-batch), "reward model" (scores of a rollout) and "update".
      `residents`: bytes of what the stage holds throughout: "policy", "optimizer", "reference", "reward model".
      `phases`: for "sample", "score" and "update" the bytes of everything that is there, by part.
      `hbm_bytes`: the most that a phase needs; `fits`: whether the chip has that and no program was refused.
      Besides: `stage`, `method`, `rows` of a batch, their `tokens`, `grad_accum_steps`; `full_rematerializations`.

    Raises:
      UserError: the topology, the mesh or a field is wrong, libtpu is missing, or the method's batches hang on data.
    """
    settings: RLSettings = stage_of(recipe, "rl")
    if METHODS[settings.method].data != "policy":
        raise UserError(
            f"rl.method={settings.method} learns from stored samples, whose lengths are not known; take another."
        )
    with captured_stderr() as told:
        where = described_slice(recipe, topology)
        state = policy_state(settings, where)
        sampling, weights = sampling_programs(settings, where)
        lowered = sampling | scoring_programs(settings, where)
        lowered["update"] = functools.partial(_lower_update, settings, where, state)
        programs = {name: compiled_program(lower) for name, lower in lowered.items()}
    residents = {"policy": shard_bytes(state.params), "optimizer": shard_bytes(state.opt_state)}
    if settings.algorithm.needs_reference:
        residents["reference"] = shard_bytes(model_params(where))
    if settings.reward_stage:
        residents["reward model"] = shard_bytes(reward_params(where))
    found = phases(programs, residents, weights, on_host=settings.reference == "host")
    most = max(sum(parts.values()) for parts in found.values())
    capacity = HBM_BYTES[where.kind]
    return where.facts() | {
        "stage": "rl",
        "method": settings.method,
        "rows": settings.samples_per_step,
        "new_tokens": settings.max_new_tokens,
        "tokens": tokens_of_row(settings, where.layout),
        "grad_accum_steps": settings.grad_accum_steps,
        "programs": programs,
        "residents": residents,
        "phases": found,
        "hbm_bytes": most,
        "fits": most <= capacity and all(each["memory"] is not None for each in programs.values()),
        "full_rematerializations": told[0].count(RELAID),
    }


def compile_sampler(recipe: Recipe, topology: str) -> dict[str, Any]:
    """The sampler's programs alone, by the fields of the recipe's part `rl`: a part of what `compile_rl` returns.

    Raises:
      UserError: the topology, the mesh or a field is wrong, or libtpu is missing.
    """
    settings: RLSettings = stage_of(recipe, "rl")
    with captured_stderr() as told:
        where = described_slice(recipe, topology)
        lowered, weights = sampling_programs(settings, where)
        programs = {name: compiled_program(lower) for name, lower in lowered.items()}
    needed = sampling_parts(programs, weights)
    most = sum(needed.values())
    fits = most <= HBM_BYTES[where.kind] and all(found["memory"] is not None for found in programs.values())
    return where.facts() | {
        "stage": "sample",
        "rows": settings.slots,
        "new_tokens": settings.max_new_tokens,
        "programs": programs,
        "phases": {"sample": needed},
        "hbm_bytes": most,
        "fits": fits,
        "full_rematerializations": told[0].count(RELAID),
    }


def phases(
    programs: dict[str, dict], residents: dict[str, int], weights: int, on_host: bool
) -> dict[str, dict[str, int]]:
    """For each phase the bytes of all that a device holds in it, by part.

    Of a program counts what it needs above the residents that are among its arguments. A reference that lies in host
    memory is on the devices while it scores only. `weights` are those that the sampler reads.
    """
    lasting = {name: size for name, size in residents.items() if not (on_host and name == "reference")}

    def above(program: str, *arguments: str) -> int:
        return max(0, programs[program]["hbm_bytes"] - sum(residents[name] for name in arguments))

    scoring = [above(name, name) for name in ("reference", "reward model") if name in programs]
    brought = {"reference, brought in": residents["reference"]} if "reference" in residents and on_host else {}
    return {
        "sample": lasting | sampling_parts(programs, weights),
        "score": lasting | brought | {"scoring, above its model": max(scoring, default=0)},
        "update": lasting | {"update, above its state": above("update", "policy", "optimizer")},
    }


def sampling_parts(programs: dict[str, dict], weights: int) -> dict[str, int]:
    """The weights in the decode layout, and what the sampler needs besides when it needs the most.

    All programs but "grow" have the weights among their arguments.
    """
    needed = {name: programs[name]["hbm_bytes"] for name in ("prefill", "decode", "grow") if name in programs}
    needed |= {name: size - weights for name, size in needed.items() if name != "grow"}
    return {"weights to decode with": weights, "cache, and sampling above it": max(needed.values())}


def tokens_of_row(settings: RLSettings, layout: Layout) -> int:
    """T of the batch whose longest row is as long as the limits allow."""
    longest = settings.max_prompt_tokens + settings.max_new_tokens - 1
    return bucketed_length(longest, longest, length_multiple(longest, layout))


def model_params(where: Slice) -> Any:
    """Abstract parameters of the decoder in their shards."""
    return where.layout.abstract(jax.eval_shape(lambda: initial_params(where.model, jax.random.key(0))))


def reward_params(where: Slice) -> Any:
    """The same of a decoder with a head that scores."""
    hidden_size = where.model.config.hidden_size
    shapes = jax.eval_shape(lambda: with_reward_head(initial_params(where.model, jax.random.key(0)), hidden_size))
    return where.layout.abstract(shapes)


def policy_state(settings: RLSettings, where: Slice) -> TrainState:
    """The abstract train state: the policy, for PPO with its value model, and AdamW's moments."""
    read = functools.partial(initial_params, where.model, jax.random.key(0))
    make = functools.partial(settings.algorithm.initial_params, read, where.model.config.hidden_size)
    return abstract_state(make, make_optimizer(settings), where.layout)


def abstract_batch(settings: RLSettings, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch of an update as a rollout makes it."""
    example = batch_of([[0]], [Completion(0, 0, [0], [0.0], [0.0], "eos")], tokens_of_row(settings, layout))
    extra = {
        "advantages": True,
        "old_logprobs": settings.num_updates > 1 or settings.algorithm.has_values or settings.old_logprobs == "sampler",
        "ref_logprobs": settings.algorithm.needs_reference,
        "old_values": settings.algorithm.has_values,
        "returns": settings.algorithm.has_values,
    }
    example |= {name: example["sampler_logprobs"] for name, there in extra.items() if there}
    return layout.abstract_batch(example, settings.samples_per_step)


def _lower_update(settings: RLSettings, where: Slice, state: TrainState) -> Any:
    step = make_train_step(
        settings.algorithm.loss, where.model, make_optimizer(settings), where.layout, state, settings.grad_accum_steps
    )
    return step.lower(state, abstract_batch(settings, where.layout))


def scoring_programs(settings: RLSettings, where: Slice) -> Programs:
    """What is asked of frozen models: the reference a micro-batch at a time, the reward model all at once."""
    model, layout, rows = where.model, where.layout, settings.samples_per_step
    programs: Programs = {}
    if settings.algorithm.needs_reference:
        logprobs = jax.jit(lambda params, batch: batch_logprobs(model, params, batch, settings.temperature)[0])
        fields = {name: x for name, x in abstract_batch(settings, layout).items() if name in INPUTS}
        micro = {
            name: jax.ShapeDtypeStruct((rows // settings.grad_accum_steps, *x.shape[1:]), x.dtype, sharding=x.sharding)
            for name, x in fields.items()
        }
        programs["reference"] = lambda: logprobs.lower(model_params(where), micro)
    if settings.reward_stage:
        scores = jax.jit(functools.partial(token_scores, model), out_shardings=layout.replicated)
        length = padded_length(settings.max_prompt_tokens + settings.max_new_tokens, layout)
        example = {name: np.zeros((1, length), np.int32) for name in INPUTS if name != "targets"}
        asked = layout.abstract_batch(example, rows)
        programs["reward model"] = lambda: scores.lower(reward_params(where), asked)
    return programs


def sampling_programs(settings: RLSettings, where: Slice) -> tuple[Programs, int]:
    """The sampler's programs at their widest, and the bytes of the weights that they read.

    "prefill" takes the prompts of a rollout, "decode" is a chunk of steps, and "grow" doubles the cache's places
    before it: old and new ones are there together.
    """
    rows, layout = settings.slots, where.layout
    engine = Engine(where.model, layout, (0,), settings.max_new_tokens, CHUNK, settings.cache_dtype)
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
    """Bytes of abstract arrays on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))
