"""Compiles the programs of the stage `rl` for a topology, without its devices: memory and time of each phase.

The programs are those that the stage runs: the sampler's, the reference's log-probabilities, the reward model's scores
and the update. In addition to its program, a phase needs memory for what stays on the devices: policy, optimizer,
reference and reward model. Each term is XLA's peak or exact; their sum assumes that buffers are not shared.

The time of a phase is at least the sum of its programs' bounds, each as often as it runs for one rollout.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsmath_jax.aot.bound import Bound
from dsmath_jax.aot.program import capture_stderr, compile_program
from dsmath_jax.aot.step import Target, make_target, shard_bytes, stage_settings
from dsmath_jax.models.lora import Frozen, frozen_dtypes, initial_adapters
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.batches import Packing, RowShapes, Sequences
from dsmath_jax.rl.reward_model.model import jitted_scores, with_reward_head
from dsmath_jax.rl.scoring import INPUTS, jitted_logprobs
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.abstract import EngineInputs, StateLengths, abstract_inputs
from dsmath_jax.sampling.compaction import SlotShape
from dsmath_jax.sampling.engine import Engine
from dsmath_jax.sampling.sampler import CHUNK
from dsmath_jax.sampling.scheduler import cache_lengths, prefix_length, slot_shape
from dsmath_jax.sampling.token_sampling import SamplingMode
from dsmath_jax.sampling.turns import ring_positions
from dsmath_jax.sharding import Layout
from dsmath_jax.training.lora import abstract_adapters
from dsmath_jax.training.model_files import abstract_params
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.training.step import ALL_TRAINED, TrainState, abstract_state, make_train_step
from dsmath_jax.workdir import UserError

Programs = dict[str, Callable[[], Any]]  # name -> function that lowers it
NOTHING = Bound(0.0, 0.0, 0.0, 0.0)


class SamplerMemory(NamedTuple):
    """Bytes on a device that the sampler holds while a program runs.

    Attributes:
      weights: in the decode layout; among the arguments of "prefill" and "decode".
      rest_of_state: bytes of the state with the largest cache, other than the ring that "grow" makes.
    """

    weights: int
    rest_of_state: int


def compile_rl(recipe: Recipe, name: str) -> dict[str, Any]:
    """Lowers and compiles the programs of the stage `rl` of `recipe` for the topology `name`.

    Returns:
      `Target.describe`, and per device:
      `programs`: by name, see `step.compile_program`: "prefill", "decode" and "grow" (the sampler),
        "logprobs" and "reward model" (of a micro-batch) and "update".
      `residents`: bytes of what stays on the devices: "policy", "optimizer", "reference", "reward model",
        "policy of the next rollout" (`rl.rollouts_ahead`); with LoRA "base" and "adapters" in place of policy and
        reference.
      `phases`: bytes in the phases "sample", "score" and "update", by part.
      `bounds`: the seconds that each resource is busy at least in each phase (see `phase_bounds`).
      `rollouts`: of the whole run.
      `hbm_bytes`: the bytes of the largest phase; `fits`: whether the chip has them and no program was refused.
      `stage`, `method`, `rows` of a batch, their `tokens`, `grad_accum_steps`, `full_rematerializations`.

    Raises:
      UserError: the topology, the mesh or a field is invalid, libtpu is missing, or batch sizes depend on data.
    """
    settings = rl_settings(recipe)
    with capture_stderr():
        target = make_target(recipe, name)
    state = policy_state(settings, target)
    sampling, memory = sampling_programs(settings, target)
    lowered = sampling | scoring_programs(settings, target)
    lowered["update"] = functools.partial(_lower_update, settings, target, state)
    programs = compile_all(lowered, target)
    residents = {"policy": shard_bytes(state.params), "optimizer": shard_bytes(state.opt_state)}
    if settings.lora:  # the reference model is the base
        residents = {"base": shard_bytes(frozen_params(target)), "adapters": residents["policy"]} | residents
        del residents["policy"]
    elif settings.algorithm.needs_reference:
        residents["reference"] = shard_bytes(model_params(target))
    if settings.rollouts_ahead:
        residents["policy of the next rollout"] = shard_bytes(state.params)
    if settings.reward_stage:
        residents["reward model"] = shard_bytes(reward_params(target))
    frozen_copies = 1 + settings.algorithm.has_values  # among the arguments of the update, in one place
    by_phase = phases(programs, residents, memory, settings.reference_memory == "host", frozen_copies)
    peak = max(sum(parts.values()) for parts in by_phase.values())
    capacity = target.topology.usable_bytes
    return target.describe() | {
        "stage": "rl",
        "method": settings.method,
        "rows": settings.samples_per_step,
        "new_tokens": settings.max_new_tokens,
        "tokens": row_shapes(settings, target.layout).row_length,
        "grad_accum_steps": settings.grad_accum_steps,
        "programs": programs,
        "residents": residents,
        "phases": by_phase,
        "bounds": {phase: bound._asdict() for phase, bound in phase_bounds(programs, settings).items()},
        "rollouts": settings.steps // settings.steps_per_rollout,
        "hbm_bytes": peak,
        "fits": peak <= capacity and not refused(programs),
        "full_rematerializations": sum(each["full_rematerializations"] for each in programs.values()),
    }


def rl_settings(recipe: Recipe) -> RLSettings:
    """Returns the settings of the stage `rl`.

    Raises:
      UserError: the recipe has none, or batch sizes depend on data.
    """
    settings: RLSettings = stage_settings(recipe, "rl")
    if settings.method_row.completions != "policy":
        raise UserError(
            f"rl.method={settings.method} learns from stored samples, whose lengths are not known; "
            "use a method that samples from the policy."
        )
    if settings.teacher or settings.reference_model or settings.step_rewards == "monte_carlo":
        raise UserError(
            "rl.teacher, rl.reference_model and rl.step_rewards=monte_carlo are not compiled ahead of time; leave them "
            "out."
        )
    return settings


def compile_sampler(recipe: Recipe, name: str) -> dict[str, Any]:
    """Compiles only the sampler, as configured by the section `rl`; returns some fields of `compile_rl`'s result.

    Raises:
      UserError: the topology, the mesh or a field is invalid, or libtpu is missing.
    """
    settings: RLSettings = stage_settings(recipe, "rl")
    with capture_stderr():
        target = make_target(recipe, name)
    lowered, memory = sampling_programs(settings, target)
    programs = compile_all(lowered, target)
    parts = sampling_parts(programs, memory)
    peak = sum(parts.values())
    fits = peak <= target.topology.usable_bytes and not refused(programs)
    return target.describe() | {
        "stage": "sample",
        "rows": settings.num_decode_slots,
        "new_tokens": settings.max_new_tokens,
        "programs": programs,
        "phases": {"sample": parts},
        "bounds": {} if refused(programs) else {"sample": sampling_bound(programs, settings)._asdict()},
        "hbm_bytes": peak,
        "fits": fits,
        "full_rematerializations": sum(each["full_rematerializations"] for each in programs.values()),
    }


def phases(
    programs: dict[str, dict], residents: dict[str, int], memory: SamplerMemory, on_host: bool, frozen_copies: int = 1
) -> dict[str, dict[str, int]]:
    """Returns the bytes on a device in each phase, by part.

    A program counts as what it needs above the residents among its arguments. A reference in host memory is on the
    devices only while it scores. `frozen_copies` is how often the frozen model of LoRA is among the arguments of the
    update.
    """
    permanent = {name: size for name, size in residents.items() if not (on_host and name == "reference")}

    def above(program: str, *arguments: str) -> int:
        return max(0, programs[program]["hbm_bytes"] - sum(residents[name] for name in arguments))

    policy = ("base", "adapters") if "base" in residents else ("policy",)
    updated = ("adapters", *["base"] * frozen_copies) if "base" in residents else policy
    scoring = [
        above(name, *models)
        for name, models in (
            ("logprobs", ("reference",) if "reference" in residents else policy), ("reward model", ("reward model",))
        )
        if name in programs
    ]  # fmt: skip
    moved = {"reference, from host memory": residents["reference"]} if "reference" in residents and on_host else {}
    return {
        "sample": permanent | sampling_parts(programs, memory),
        "score": permanent | moved | {"scoring, above its model": max(scoring, default=0)},
        "update": permanent | {"update, above its state": above("update", *updated, "optimizer")},
    }


def refused(programs: dict[str, dict]) -> bool:
    """Returns whether XLA refused a program."""
    return any(program["memory"] is None for program in programs.values())


def compile_all(lowered: Programs, target: Target) -> dict[str, dict[str, Any]]:
    """Returns `compile_program` of each program; the loop of the decode programs runs for a whole chunk."""
    return {
        name: compile_program(lower, target.topology, target.layout, CHUNK if name.startswith("decode") else 1)
        for name, lower in lowered.items()
    }


def phase_bounds(programs: dict[str, dict], settings: RLSettings) -> dict[str, Bound]:
    """Returns the bounds of "sample", "score" and "update" for one rollout; none if a program was refused.

    Every prompt and every completion is taken to have the largest number of tokens, so that packing saves nothing;
    shorter ones take fewer rows.
    """
    if refused(programs):
        return {}
    parts = settings.grad_accum_steps * settings.minibatches  # micro-batches of a rollout
    runs = {"logprobs": num_forwards(settings) * parts, "reward model": parts}
    score = [Bound(**programs[name]["bound"]).times(n) for name, n in runs.items() if name in programs]
    return {
        "sample": sampling_bound(programs, settings),
        "score": sum(score, start=NOTHING),
        "update": Bound(**programs["update"]["bound"]).times(settings.steps_per_rollout),
    }


def num_forwards(settings: RLSettings) -> int:
    """Returns how many forward passes score a rollout: by the reference, the policy and the value model."""
    algorithm = settings.algorithm
    return algorithm.needs_reference + settings.computes_old_logprobs + algorithm.has_values


def sampling_bound(programs: dict[str, dict], settings: RLSettings) -> Bound:
    """Returns the bound of sampling the completions of one rollout.

    The costs of a decode step grow linearly with the length of the cache: between the two lengths for which it is
    compiled, they are interpolated. All prompts are computed once.
    """
    lengths = ring_lengths(settings)
    longest = Bound(**programs["decode"]["bound"])
    shortest = Bound(**programs["decode, shortest cache"]["bound"]) if len(lengths) > 1 else longest
    rounds = settings.samples_per_step / settings.num_decode_slots
    total, begin = Bound(**programs["prefill"]["bound"]).times(rounds), 0
    for length in lengths:
        share = (length - lengths[0]) / max(lengths[-1] - lengths[0], 1)
        chunk = shortest.times(1 - share) + longest.times(share)
        total += chunk.times(rounds * (length - begin) / CHUNK)
        begin = length
    return total


def sampling_parts(programs: dict[str, dict], memory: SamplerMemory) -> dict[str, int]:
    """Returns the bytes of the weights in the decode layout, and the most that the sampler needs above them."""
    sizes = [programs[name]["hbm_bytes"] - memory.weights for name in ("prefill", "decode")]
    if "grow" in programs:
        sizes.append(programs["grow"]["hbm_bytes"] + memory.rest_of_state)
    return {"weights to decode with": memory.weights, "cache, and sampling above it": max(sizes)}


def row_shapes(settings: RLSettings, layout: Layout) -> RowShapes:
    """Returns the shapes of the run's batches, if a prompt has the largest allowed length."""
    longest = settings.max_prompt_tokens + settings.max_new_tokens
    return RowShapes(longest, settings.rows_per_step, settings.grad_accum_steps, layout)


def model_params(target: Target) -> Any:
    """Returns the abstract parameters of the decoder with their shardings."""
    return abstract_params(target.model.config, target.layout)


def frozen_params(target: Target) -> Any:
    """Returns the abstract parameters of a decoder that is frozen."""
    return frozen_dtypes(model_params(target), target.model.config.compute_dtype)


def policy_params(settings: RLSettings, target: Target) -> Any:
    """Returns the abstract parameters that the policy is applied with: with LoRA the frozen ones and the adapters."""
    if settings.lora is None:
        return model_params(target)
    params, adapters = frozen_params(target), abstract_adapters(target.model.config, settings.lora, target.layout)
    return {**params, "layers": params["layers"] | adapters["layers"]}


def reward_params(target: Target) -> Any:
    """Returns the abstract parameters of a decoder with a reward head."""
    hidden_size = target.model.config.hidden_size
    shapes = jax.eval_shape(lambda params: with_reward_head(params, hidden_size), model_params(target))
    return target.layout.abstract(shapes)


def initial_trained(target: Target, lora: LoraSettings | None) -> Callable[[], Any]:
    """Returns a function that makes parameters like those that are trained: the decoder's, or its adapters."""
    if lora is None:
        return lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), model_params(target))
    return functools.partial(initial_adapters, model_params(target), lora.targets, lora.rank, jax.random.key(0))


def policy_state(settings: RLSettings, target: Target) -> TrainState:
    """Returns the abstract train state: the policy, with PPO's value model, and AdamW's moments."""
    read, hidden_size = initial_trained(target, settings.lora), target.model.config.hidden_size
    make = functools.partial(settings.algorithm.initial_params, read, hidden_size)
    return abstract_state(make, make_optimizer(settings), target.layout)


def abstract_batch(settings: RLSettings, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the abstract batch of an update, with the fields that a rollout makes.

    It is the largest one, of completions that fill a row each; shorter ones are packed into fewer rows.
    """
    used = {
        "loss_weights": True,
        "sampler_logprobs": True,
        "advantages": True,
        "old_logprobs": settings.computes_old_logprobs or settings.old_logprobs == "sampler",
        "ref_logprobs": settings.algorithm.needs_reference,
        "old_values": settings.algorithm.has_values,
        "returns": settings.algorithm.has_values,
        "entropy_coef": settings.algorithm.entropy_has_gradient,
    }
    fields = {name: np.zeros(1, np.float32) for name, is_used in used.items() if is_used}
    one, first = np.zeros(1, np.int32), np.ones(1, np.int32)
    packing = Packing(one, first, (1, row_shapes(settings, layout).row_length))
    return layout.abstract_batch(packing.batch(Sequences.of([([0], [0])]), fields), settings.rows_per_step)


def _lower_update(settings: RLSettings, target: Target, state: TrainState) -> Any:
    frozen = ALL_TRAINED
    if settings.lora:
        make = lambda params: settings.algorithm.initial_params(lambda: params, target.model.config.hidden_size)  # noqa: E731
        frozen = Frozen(target.layout.abstract(jax.eval_shape(make, frozen_params(target))), settings.lora.scale)
    step = make_train_step(
        settings.algorithm.objective, target.model, make_optimizer(settings), target.layout, state,
        settings.grad_accum_steps, frozen,
    )  # fmt: skip
    return step.lower(state, abstract_batch(settings, target.layout))


def scoring_programs(settings: RLSettings, target: Target) -> Programs:
    """Returns the programs that score a micro-batch: log-probabilities, and the reward model's scores."""
    model, layout = target.model, target.layout
    inputs = {name: x for name, x in abstract_batch(settings, layout).items() if name in INPUTS}
    rows = row_shapes(settings, layout).micro_rows
    micro = {
        name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=x.sharding) for name, x in inputs.items()
    }
    programs: Programs = {}
    if num_forwards(settings):
        logprobs = jitted_logprobs(model, settings.temperature)
        programs["logprobs"] = lambda: logprobs.lower(policy_params(settings, target), micro)
    if settings.reward_stage:
        scores: Any = jitted_scores(model, layout)
        programs["reward model"] = lambda: scores.lower(reward_params(target), micro)
    return programs


def ring_lengths(settings: RLSettings) -> list[int]:
    """Returns the lengths that the cache of a completion may have, ascending."""
    environment, limit = settings.environment, settings.max_new_tokens
    return cache_lengths(ring_positions(environment.limits(limit), CHUNK) if environment else limit)


def sampling_programs(settings: RLSettings, target: Target) -> tuple[Programs, SamplerMemory]:
    """Returns the sampler's programs, and the memory that it needs besides.

    "prefill" computes the prompts of a rollout, "decode" a chunk of decode steps with the largest cache. "grow" doubles
    the length of the keys or values of one layer, before the last chunks.
    """
    *shorter, longest = ring_lengths(settings)
    engine, shape, prompt_length = sampler_shape(settings, target)
    params = policy_params(settings, target)

    def inputs(ring: int) -> EngineInputs:
        return abstract_inputs(engine, shape, StateLengths(prompt_length, ring), params)

    widest = inputs(longest)
    mode = SamplingMode(False, settings.top_k > 0, settings.top_p < 1)
    programs: Programs = {
        "prefill": lambda: engine.prefill.lower(*widest.prefill),
        "decode": lambda: engine.decode.lower(*widest.decode, mode=mode),
    }
    if shorter:
        small = inputs(shorter[0])
        programs["decode, shortest cache"] = lambda: engine.decode.lower(*small.decode, mode=mode)
        ring, position = jax.tree.leaves(inputs(shorter[-1]).decode[1].cache)[0], widest.decode[3].position
        programs["grow"] = lambda: engine.resize_ring.lower(ring, position, longest)
    weights, state = widest.decode[:2]
    one_ring, *_ = jax.tree.leaves(state.cache)
    return programs, SamplerMemory(shard_bytes(weights), shard_bytes(state) - shard_bytes(one_ring))


def sampler_shape(settings: RLSettings, target: Target) -> tuple[Engine, SlotShape, int]:
    """Returns the engine, its slots, and the positions of a prompt slot."""
    engine = Engine(target.model, target.layout, (0,), CHUNK, settings.decode_dtypes)
    shape = slot_shape(
        settings.num_decode_slots, settings.prompts_per_step, settings.started_per_prompt, target.layout.batch_shards
    )
    return engine, shape, prefix_length(settings.max_prompt_tokens)
