"""Stage `rl`: trains the policy by any method of the paper's Table 10; for iterative GRPO this is Algorithm 1.

Axis letters: P prompts of a rollout, G completions of each; B rows of a packed batch, T tokens.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dsmath_jax.data import chat as chats
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, load_subsample, subsample
from dsmath_jax.environments.settings import open_environment
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, Params
from dsmath_jax.rl import offline
from dsmath_jax.rl.algorithms import Likelihood
from dsmath_jax.rl.batches import RowShapes, Sequences, TokenFields, pack_batch
from dsmath_jax.rl.checks import check_overlap
from dsmath_jax.rl.context import Context, FrozenModel
from dsmath_jax.rl.curriculum import Asked, Questions, by_initial_pass_rate
from dsmath_jax.rl.diagnosis import other_template
from dsmath_jax.rl.dialogues import open_dialogues, question_ids
from dsmath_jax.rl.evaluations import Evaluations
from dsmath_jax.rl.reward_model.labels import write_rows
from dsmath_jax.rl.reward_model.model import jitted_scores
from dsmath_jax.rl.reward_model.settings import SamplesSettings
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.rl.rollout_files import RolloutFiles
from dsmath_jax.rl.rollouts import eval_prompts, load_prompts
from dsmath_jax.rl.rounds import check_resumes_in_round, read_reward_model, retrain_reward_model
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.training_rollouts import RolloutMaker
from dsmath_jax.rl.updates import PackedUpdate
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.lora import Adapters, trainable, write_adapters
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Prefetch
from dsmath_jax.training.pretrain import initial_model, model_location
from dsmath_jax.training.settings import hugging_face_folder
from dsmath_jax.training.step import state_from_params
from dsmath_jax.workdir import read_jsonl

SAMPLES_OF_INIT = "samples_of_init.jsonl"


def run(
    settings: RLSettings,
    model_section: ModelConfig | None,
    chat_settings: ChatSettings,
    workdir: Path,
    data_dir: Path,
    layout: Layout,
    seed: int,
) -> dict[str, int | None]:
    """Runs the stage: trains the policy.

    Reads `rl.data`, the model `rl.init` and, where the method has one, the reward model's stage. Writes
    `rl/{params,model.json,chat.json,metrics.jsonl,timing.jsonl,samples.jsonl,findings.jsonl}`, `rl/best/` (with
    `rl.eval_data`), `rl/rollouts/` (those that a checkpoint may still need), `rl/samples_of_init.jsonl` (RFT, DPO) and
    `rl/rounds/` (iterative GRPO).

    Raises:
      UserError: the settings do not fit the data or the model, or a model or a record is missing.
    """
    chat = chats.read(chats.ChatSource(workdir / "tokenizer", chat_settings))
    for stage in settings.model_stages:
        chats.check_same(chat, workdir / stage)
    model, read_initial_params = initial_model(settings.init, model_section, workdir, data_dir, chat.tokenizer, layout)
    environments = contextlib.ExitStack()
    make_environment = environments.enter_context(open_environment(settings.environment))
    encode = question_ids(chat, make_environment)
    prompts = load_prompts(settings, data_dir, encode, model.config.max_position_embeddings)
    retrain_count = settings.retrain.problems if settings.retrain else 0
    retrain_records = load_subsample(
        settings.retrain_data, data_dir, retrain_count, seed, settings.retrain_columns
    )  # fmt: skip
    eval_records = load_subsample(
        settings.eval_data, data_dir, settings.eval_problems, EVALUATION_SEED, settings.columns
    )  # fmt: skip
    num_overlapping = check_overlap(settings, workdir, data_dir, eval_records) if eval_records else 0
    sampler = Sampler(
        model, layout, chat.stop_ids, settings.max_new_tokens, settings.num_decode_slots, settings.decode_dtypes
    )  # fmt: skip

    shapes = RowShapes(prompts.max_length, settings.rows_per_step, settings.grad_accum_steps, layout)

    def logprobs(model: Decoder) -> PackedForward:
        return PackedForward(jitted_logprobs(model, settings.temperature), shapes)

    def frozen(init: str) -> FrozenModel:
        other, read = initial_model(init, model_section, workdir, data_dir, chat.tokenizer, layout)
        return FrozenModel(logprobs(other), functools.partial(read, frozen=True))

    policy_logprobs = logprobs(model)
    folder = workdir / "rl"
    write_config(folder, model.config, chat)
    adapters = None
    if settings.lora:
        adapters = Adapters(settings.lora, model_location(settings.init, workdir, data_dir))
    write_adapters(folder, adapters)
    source = hugging_face_folder(settings.init, data_dir)
    trained = trainable(settings.lora, read_initial_params, model, layout, seed)
    ctx = Context(
        settings, folder, workdir, seed, layout, model, chat, prompts, shapes, retrain_records, sampler,
        policy_logprobs, trained,
        reference=frozen(settings.reference_model) if settings.reference_model
        else FrozenModel(policy_logprobs, trained.initial_model),
        teacher=frozen(settings.teacher) if settings.teacher else None,
        make_environment=make_environment,
        findings_at_start=other_template(chat, source) if source else [],
    )  # fmt: skip
    limits = settings.reward_seconds, settings.reward_workers
    with environments, RewardFunctions((("correct", 1.0),), *limits) as correct:
        evaluations = None
        if eval_records:
            measure = greedy_accuracy(ctx, eval_records, correct)

            def write_best_config(best: Path) -> None:
                write_config(best, model.config, chat)
                write_adapters(best, adapters)

            evaluations = Evaluations(folder, measure, write_best_config, settings.steps, settings.patience)
        if settings.curriculum == "init":
            sampled = subsample(prompts.sets, settings.offline_prompts, seed)
            chosen = by_initial_pass_rate(prompts, sampled, read_jsonl(initial_policy_samples(ctx)), settings)
            logging.info("rl: %d of %d questions are left by their pass rates.", len(chosen.ids), len(prompts.ids))
            ctx = ctx._replace(prompts=chosen)
        if settings.method_row.completions == "policy":
            with RewardFunctions(settings.reward_fns, *limits, settings.overlong) as reward_fns:
                train_online(ctx, reward_fns, evaluations)
        else:
            train_offline(ctx, evaluations)
    counts = {"questions": len(ctx.prompts.ids), "num_overlapping": num_overlapping, "steps": settings.steps}
    return counts | (evaluations.counts() if evaluations else {})


def train_online(ctx: Context, reward_fns: RewardFunctions, evaluations: Evaluations | None) -> None:
    """Trains on rollouts of the policy: Online RFT, PPO and GRPO, in one round or, for iterative GRPO, several."""
    settings, algorithm, folder = ctx.settings, ctx.settings.algorithm, ctx.folder

    # --- setup: the train state ---
    optimizer = make_optimizer(settings)
    trained = ctx.trainable.wrap(lambda read: algorithm.initial_params(read, ctx.model.config.hidden_size))
    state, frozen = state_from_params(trained.read(), optimizer, ctx.layout), trained.frozen
    update = PackedUpdate(algorithm.objective, ctx.model, optimizer, frozen, ctx.shapes)
    values = PackedForward(jitted_scores(ctx.model, ctx.layout), ctx.shapes)
    steps_per_round = settings.steps // settings.rounds
    reference_model, reward_folder = ctx.reference, ctx.workdir / (settings.reward_stage or "")
    teacher = ctx.teacher.load(settings.reference_memory) if ctx.teacher else None

    for round_number in range(1, settings.rounds + 1):
        # --- new round: the policy becomes the reference, and the reward model is retrained on its samples ---
        if round_number > 1:
            reference_model = ctx.reference._replace(read_params=functools.partial(ctx.read_round, round_number - 1))
            reward_folder = retrain_reward_model(ctx, round_number - 1, reward_folder)
        end_of_round = folder / "rounds" / str(round_number) / "params"
        if round_number < settings.rounds and not checkpoint.why_invalid(end_of_round):
            continue
        reference = reference_model.load(settings.reference_memory) if algorithm.needs_reference else None
        reward_model = read_reward_model(ctx, reward_folder) if settings.reward_stage else None

        with (  # restores the newest checkpoint; `loop.steps` saves one every `checkpoint_every` steps
            TrainLoop(folder, settings, ctx.layout, state) as loop,
            RolloutFiles(folder, settings, ctx.seed, loop.first_step) as rollouts,
            Questions(folder, settings, ctx.seed, len(ctx.prompts.ids), loop.first_step) as questions,
            ctx.findings(loop),
        ):
            maker = RolloutMaker(ctx, reward_fns, reward_model, reference, teacher, values, rollouts, loop)
            check_resumes_in_round(loop.first_step, (round_number - 1) * steps_per_round, folder)
            if evaluations:
                evaluations.resume(loop.first_step)
            for step in loop.steps(until=round_number * steps_per_round):
                if evaluations and loop.eval_due(step):
                    evaluations.add(loop, step, algorithm.policy(loop.state.params))
                    if evaluations.stopped:
                        break
                loop.wait()
                number = step // settings.steps_per_rollout

                # --- rollout: G completions of each of P prompts from the current policy, with rewards ---
                if rollouts.missing(number, step):
                    maker.finish(maker.sample(frozen.combine(loop.state.params), number, questions.batches(number)))
                data, metrics = rollouts.read(step)
                questions.observe(step, [Asked(*each) for each in rollouts.asked(step)])

                # --- with rollouts_ahead the next rollout too, which is graded while the devices train ---
                ahead = None
                if rollouts.missing(number + 1, step):
                    copied = jax.tree.map(jnp.copy, loop.state.params)  # the update donates the state
                    ahead = maker.sample(frozen.combine(copied), number + 1, questions.batches(number + 1))
                    del copied

                # --- update: one of mu optimizer steps on the rollout ---
                update(loop, pack_batch(*data.with_loss(), ctx.shapes), metrics, rollouts.samples(step))
                if ahead is not None:
                    loop.wait()  # measures the update; what `finish` computes on devices comes after it anyway
                    maker.finish(ahead)  # written before the next checkpoint: a resumed run lacks the policy
                    ahead = None  # frees the parameters

            stopped = evaluations is not None and evaluations.stopped
            if evaluations and not stopped and round_number == settings.rounds:
                evaluations.add(loop, settings.steps, algorithm.policy(loop.state.params))
        state = loop.state
        if stopped:
            break
        del loop, maker, reference, reward_model  # they may not fit into memory with the next round's
        if round_number < settings.rounds:
            checkpoint.save(end_of_round, state.params)
    checkpoint.save(folder / "params", algorithm.policy(state.params))


def train_offline(ctx: Context, evaluations: Evaluations | None) -> None:
    """Trains by SFT, RFT and DPO, on completions that do not depend on the policy."""
    settings, algorithm, prompts = ctx.settings, ctx.settings.algorithm, ctx.prompts

    # --- data: solutions, correct samples of the initial model, or pairs of a correct and an incorrect one ---
    weight, reference = 1.0, None
    examples: Sequence[Sequence[offline.Row]]
    if settings.method_row.completions == "pairs":
        examples = offline.pair_rows(initial_policy_samples(ctx))
        reference = ctx.reference.load(settings.reference_memory)
    elif settings.method_row.completions == "correct":
        assert isinstance(algorithm, Likelihood)
        rows, share = offline.correct_rows(initial_policy_samples(ctx))
        examples, weight = [(row,) for row in rows], 1.0 if algorithm.normalize_by_correct else share
    else:
        examples = [(row,) for row in offline.solution_rows(prompts.records, ctx.chat, settings.max_new_tokens)]

    def fields_of(sequences: Sequences) -> TokenFields:
        if reference is not None:
            return {"ref_logprobs": reference(sequences)}
        return {"advantages": np.full(sequences.completion_lengths.sum(), weight, np.float32)}

    shapes = offline.row_shapes(settings, examples, ctx.layout)
    batches = offline.batches(settings, examples, ctx.seed, shapes, fields_of)
    if reference is None:  # which is not used from a thread
        batches = Prefetch(batches, settings.steps)

    # --- setup: after sampling, since both may not fit into memory ---
    optimizer = make_optimizer(settings)
    state, frozen = state_from_params(ctx.trainable.read(), optimizer, ctx.layout), ctx.trainable.frozen
    update = PackedUpdate(algorithm.objective, ctx.model, optimizer, frozen, shapes)

    with TrainLoop(ctx.folder, settings, ctx.layout, state) as loop, ctx.findings(loop):
        if evaluations:
            evaluations.resume(loop.first_step)
        for step in loop.steps():
            if evaluations and loop.eval_due(step):
                evaluations.add(loop, step, loop.state.params)
                if evaluations.stopped:
                    break
            update(loop, batches(step), {})
        if evaluations and not evaluations.stopped:
            evaluations.add(loop, settings.steps, loop.state.params)
    checkpoint.save(ctx.folder / "params", loop.state.params)


# --- evaluation, initial samples ---


def greedy_accuracy(ctx: Context, records: Sequence[Record], correct: RewardFunctions) -> Callable[[Params], float]:
    """Returns a function from the trained parameters of the policy to its greedy accuracy on these records."""
    encode = question_ids(ctx.chat, ctx.make_environment)
    prompts = eval_prompts(records, encode, ctx.model.config.max_position_embeddings)
    thinking = thinking_budget(ctx.chat, ctx.settings.max_thinking_tokens)
    greedy = SamplingParams(temperature=0.0, thinking=thinking)

    def measure(trained: Params) -> float:
        params = ctx.trainable.frozen.combine(trained)
        with open_dialogues(ctx, records, prompts) as dialogues:
            sampling = dataclasses.replace(greedy, partner=dialogues)
            groups = ctx.sampler.generate(params, prompts, sampling, decode=ctx.chat.tokenizer.decode)
            texts = [ctx.chat.completion(group[0].tokens) for group in groups]
        inputs = [
            RewardInput(text, record, answer_text=dialogues.results[i, 0].answer_text if dialogues else None)
            for i, (text, record) in enumerate(zip(texts, records, strict=True))
        ]
        rewards = correct.score(inputs)
        return float(np.mean(rewards.total == 1))

    return measure


def initial_policy_samples(ctx: Context) -> Path:
    """Returns the file of graded samples of the initial policy; generates it if it is missing."""
    settings, path = ctx.settings, ctx.folder / SAMPLES_OF_INIT
    if not path.is_file():
        records = subsample(ctx.prompts.sets, settings.offline_prompts, ctx.seed)
        samples = SamplesSettings(
            data=settings.data, kind="pointwise", problems=len(records), samples=settings.group_size,
            max_new_tokens=settings.max_new_tokens, max_thinking_tokens=settings.max_thinking_tokens,
            decode_slots=settings.num_decode_slots, cache_dtype=settings.cache_dtype,
            decode_weight_dtype=settings.decode_weight_dtype,
        )  # fmt: skip
        write_rows(path, samples, ctx.with_params(ctx.trainable.initial_model()), records, ctx.seed)
    return path
