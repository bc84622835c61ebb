"""Stage `rl`: trains the policy by any method of the paper's Table 10; for iterative GRPO this is Algorithm 1.

Axis letters: P prompts of a rollout, G completions of each, B = P x G rows of a batch, T tokens.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsmath_jax.data import chat as chats
from dsmath_jax.data import overlap
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import ReadRecords, Record, check_answers
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, load_subsample, subsample
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, Params
from dsmath_jax.rl import offline
from dsmath_jax.rl.algorithms import METHODS, Likelihood
from dsmath_jax.rl.reward_model import model as reward_models
from dsmath_jax.rl.reward_model import stage as reward_stage
from dsmath_jax.rl.reward_model import training as reward_training
from dsmath_jax.rl.reward_model.labels import write_rows
from dsmath_jax.rl.reward_model.model import ScoreRows, jitted_scores, scorer
from dsmath_jax.rl.reward_model.rows import NothingToLearn
from dsmath_jax.rl.reward_model.settings import SamplesSettings
from dsmath_jax.rl.reward_model.stage import KINDS
from dsmath_jax.rl.reward_model.training import ROWS, SUMMARY
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.rollout_batch import (
    advantage_fields,
    compute_rewards,
    examples_to_log,
    gather_token_values,
    grade_by_rules,
    pack_rollout,
    rollout_metrics,
    rows_with_loss,
)
from dsmath_jax.rl.rollouts import (
    Prompts,
    RolloutFiles,
    check_context,
    eval_prompts,
    filter_prompts,
    generate_rollout,
    load_prompts,
)
from dsmath_jax.rl.scoring import MicroBatchedForward, ReferenceModel, jitted_logprobs
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training import loop as loops
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.lora import Adapters, Trainable, abstract_adapters, trainable, write_adapters
from dsmath_jax.training.model_files import LanguageModel, read_params, write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import HostBatch
from dsmath_jax.training.pretrain import initial_model, model_location
from dsmath_jax.training.step import make_train_step, state_from_params
from dsmath_jax.workdir import UserError

Evaluate = Callable[[Params], dict[str, float]]


class Context(NamedTuple):
    """The shared state of a run of the stage.

    `model` is the policy's decoder without parameters. `trainable` has its initial ones, and reads those that are
    trained again at each call, since updates donate them.
    """

    settings: RLSettings
    folder: Path  # of the stage
    workdir: Path
    seed: int
    layout: Layout
    model: Decoder
    chat: Chat
    prompts: Prompts
    retrain_records: list[Record]  # the questions that the reward model is retrained on between rounds
    sampler: Sampler
    policy_logprobs: MicroBatchedForward
    trainable: Trainable

    def with_params(self, params: Params) -> LanguageModel:
        """Returns the policy's model with these parameters."""
        return LanguageModel(self.model, params, self.chat, self.layout)

    def read_round(self, round_number: int) -> Params:
        """Returns the policy's parameters at the end of a round; with LoRA the frozen ones are not read again."""
        folder, config, lora = self.folder / "rounds" / str(round_number), self.model.config, self.settings.lora
        if lora is None:
            return read_params(folder, config, self.layout)
        adapters = checkpoint.restore(folder / "params", abstract_adapters(config, lora, self.layout))
        return self.trainable.frozen.combine(adapters)


def check(
    settings: RLSettings, read: ReadRecords, chat: Chat | None,
    initial_config: ModelConfig | None, trained_on: Mapping[str, overlap.Questions], layout: Layout, seed: int,
) -> None:  # fmt: skip
    """Raises a `UserError` where `run` would, as far as that is known before the run.

    Args:
      settings: of the stage.
      read: see `datasets.ReadRecords`; returns none if the run has yet to generate them.
      chat: None where the tokenizer has yet to be trained.
      initial_config: config of the initial policy, None where it is not known yet.
      trained_on: what this stage and those before it train on, as for `overlap.find`.
      layout: where the model is trained.
      seed: of the sampled questions.
    """
    method, retrain = METHODS[settings.method], settings.retrain
    loops.check(settings, settings.samples_per_step // (2 if method.completions == "pairs" else 1), layout)
    if method.completions == "policy":
        RewardFunctions(settings.reward_fns, settings.reward_seconds, settings.reward_workers)
    if chat:
        thinking_budget(chat, settings.max_thinking_tokens)
    sets: Sequence[Sequence[Record]] = [read(name, settings.columns) for name in settings.data]
    held_out = subsample(
        [read(name, settings.columns) for name in settings.eval_data], settings.eval_problems, EVALUATION_SEED
    )
    check_answers(held_out)
    if held_out and not settings.allow_overlap:
        overlap.check("rl.eval_data", held_out, overlap.find(held_out, trained_on), allow=False)
    if initial_config and chat:
        eval_prompts(held_out, chat, initial_config.max_position_embeddings)
    if initial_config and any(sets) and chat:
        prompts = filter_prompts(settings, sets, chat, initial_config.max_position_embeddings)
        sets = prompts.sets
        if method.completions == "solutions":
            offline.solution_rows(prompts.records, chat, settings.max_new_tokens)
    elif initial_config:
        check_context(1 + settings.max_new_tokens, initial_config.max_position_embeddings)
    if retrain and settings.reward_stage:
        rewarded = dataclasses.replace(retrain, data=settings.retrain_data, columns=dict(settings.retrain_columns))
        check_choice("rl.retrain.kind", retrain.kind, KINDS[settings.reward_stage])
        reward_stage.check(rewarded, read, chat, initial_config, layout, seed)
    if method.completions in ("correct", "pairs"):
        check_answers(subsample(sets, settings.offline_prompts, seed))
    if settings.reward_source == "rule" and "correct" in dict(settings.reward_fns):
        check_answers(record for records in sets for record in records)


def why_not_extendable(settings: RLSettings, folder: Path, steps: int) -> str:
    """Returns why a run of `steps` steps cannot be extended to `settings.steps`, "" if it can."""
    if settings.rounds > 1:
        return f"its rounds={settings.rounds} would end at different steps"
    return loops.why_not_extendable(folder, settings, steps)


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
    `rl/{params,model.json,chat.json,metrics.jsonl,timing.jsonl,samples.jsonl}`, `rl/rollouts/` (those that a checkpoint
    may still need), `rl/samples_of_init.jsonl` (RFT, DPO) and `rl/rounds/` (iterative GRPO).

    Raises:
      UserError: the settings do not fit the data or the model, or a model or a record is missing.
    """
    chat = chats.read(chats.ChatSource(workdir / "tokenizer", chat_settings))
    for stage in settings.model_stages:
        chats.check_same(chat, workdir / stage)
    model, read_initial_params = initial_model(settings.init, model_section, workdir, data_dir, chat.tokenizer, layout)
    prompts = load_prompts(settings, data_dir, chat, model.config.max_position_embeddings)
    retrain_count = settings.retrain.problems if settings.retrain else 0
    retrain_records = load_subsample(
        settings.retrain_data, data_dir, retrain_count, seed, settings.retrain_columns
    )  # fmt: skip
    eval_records = load_subsample(
        settings.eval_data, data_dir, settings.eval_problems, EVALUATION_SEED, settings.columns
    )  # fmt: skip
    num_overlapping = check_overlap(settings, workdir, data_dir, eval_records) if eval_records else 0
    sampler = Sampler(
        model, layout, chat.stop_ids, settings.max_new_tokens, settings.num_decode_slots, settings.cache_dtype
    )  # fmt: skip
    logprobs = MicroBatchedForward(jitted_logprobs(model, settings.temperature), layout, settings.grad_accum_steps)
    folder = workdir / "rl"
    write_config(folder, model.config, chat)
    if settings.lora:
        write_adapters(folder, Adapters(settings.lora, model_location(settings.init, workdir, data_dir)))
    ctx = Context(
        settings, folder, workdir, seed, layout, model, chat, prompts, retrain_records, sampler, logprobs,
        trainable(settings.lora, read_initial_params, model, layout, seed),
    )  # fmt: skip
    limits = settings.reward_seconds, settings.reward_workers
    with RewardFunctions((("correct", 1.0),), *limits) as correct:
        evaluate = greedy_accuracy(ctx, eval_records, correct) if eval_records else None
        if METHODS[settings.method].completions == "policy":
            with RewardFunctions(settings.reward_fns, *limits) as reward_fns:
                train_online(ctx, reward_fns, evaluate)
        else:
            train_offline(ctx, evaluate)
    return {"questions": len(prompts.ids), "num_overlapping": num_overlapping}


def train_online(ctx: Context, reward_fns: RewardFunctions, evaluate: Evaluate | None) -> None:
    """Trains on rollouts of the policy: Online RFT, PPO and GRPO, in one round or, for iterative GRPO, several."""
    settings, algorithm, folder = ctx.settings, ctx.settings.algorithm, ctx.folder

    # --- setup: the train state and the train step ---
    optimizer = make_optimizer(settings)
    trained = ctx.trainable.wrap(lambda read: algorithm.initial_params(read, ctx.model.config.hidden_size))
    state, frozen = state_from_params(trained.read(), optimizer, ctx.layout), trained.frozen
    train_step = make_train_step(
        algorithm.loss, ctx.model, optimizer, ctx.layout, state, settings.grad_accum_steps, frozen
    )
    values = MicroBatchedForward(jitted_scores(ctx.model, ctx.layout), ctx.layout, settings.grad_accum_steps)
    steps_per_round = settings.steps // settings.rounds
    read_reference, reward_folder = ctx.trainable.initial_model, ctx.workdir / (settings.reward_stage or "")

    for round_number in range(1, settings.rounds + 1):
        # --- new round: the policy becomes the reference, and the reward model is retrained on its samples ---
        if round_number > 1:
            read_reference = functools.partial(ctx.read_round, round_number - 1)
            reward_folder = retrain_reward_model(ctx, round_number - 1, reward_folder)
        end_of_round = folder / "rounds" / str(round_number) / "params"
        if round_number < settings.rounds and not checkpoint.why_invalid(end_of_round):
            continue
        reference = ReferenceModel(read_reference(), settings.reference) if algorithm.needs_reference else None
        reward_model = read_reward_model(ctx, reward_folder) if settings.reward_stage else None

        with (  # restores the newest checkpoint; `loop.steps` saves one every `checkpoint_every` steps
            TrainLoop(folder, settings, ctx.layout, state) as loop,
            RolloutFiles(folder, settings, loop.first_step) as rollouts,
        ):
            check_resumes_in_round(loop.first_step, (round_number - 1) * steps_per_round, folder)
            for step in loop.steps(until=round_number * steps_per_round):
                if evaluate and loop.eval_due(step):
                    loop.log(step, evaluate(algorithm.policy(frozen.combine(loop.state.params))))
                loop.wait()
                params = frozen.combine(loop.state.params)

                if rollouts.missing(step):
                    # --- rollout: G completions of each of P prompts from the current policy ---
                    policy, number = algorithm.policy(params), step // settings.num_updates
                    rollout = generate_rollout(ctx.sampler, policy, ctx.prompts, ctx.chat, settings, ctx.seed, number)
                    loop.lap("sample_seconds")

                    # --- rewards: by rules, or a reward model's scores of outcomes or steps ---
                    rule_rewards_PG, errors = grade_by_rules(reward_fns, rollout)
                    scores_PG = compute_rewards(rollout, rule_rewards_PG, reward_model, settings, ctx.chat.tokenizer)

                    # --- log-probabilities of old policy and reference model, values ---
                    batch = pack_rollout(rollout, ctx.prompts.max_length, ctx.layout)
                    mask = batch["loss_weights"]
                    if settings.old_logprobs == "sampler":
                        batch["old_logprobs"] = batch["sampler_logprobs"]
                    elif settings.num_updates > 1 or algorithm.has_values:
                        batch["old_logprobs"] = ctx.policy_logprobs(policy, batch) * mask
                    if reference is not None:
                        batch["ref_logprobs"] = ctx.policy_logprobs(reference.params, batch) * mask
                    if algorithm.has_values:
                        # Of inserted tokens too, which have no loss: GAE bootstraps from the value after a token.
                        batch["old_values"] = values(params["value"], batch) * (batch["segment_ids"] > 0)

                    # --- advantages of every token ---
                    scored = gather_token_values(rollout, scores_PG, batch, settings.group_size)
                    advantages_PG = algorithm.advantages(scored)
                    batch |= advantage_fields(rollout, advantages_PG, batch)
                    batch["loss_weights"] = mask * rows_with_loss(settings, rollout, advantages_PG, scores_PG)[:, None]

                    metrics = rollout_metrics(rollout, batch, scores_PG, rule_rewards_PG, settings.group_size)
                    samples = examples_to_log(rollout, scores_PG, settings.group_size)
                    rollouts.write(step, batch, metrics | errors, samples)
                    loop.lap("score_seconds")

                # --- update: one of mu optimizer steps on the rollout ---
                batch, metrics = rollouts.read(step)
                loop.update(train_step, ctx.layout.take_my_rows(batch), metrics)

            if evaluate and round_number == settings.rounds:
                loop.log(settings.steps, evaluate(algorithm.policy(frozen.combine(loop.state.params))))
        state = loop.state
        del loop, reference, reward_model  # they may not fit into memory with the next round's
        if round_number < settings.rounds:
            checkpoint.save(end_of_round, state.params)
    checkpoint.save(folder / "params", algorithm.policy(state.params))


def train_offline(ctx: Context, evaluate: Evaluate | None) -> None:
    """Trains by SFT, RFT and DPO, on completions that do not depend on the policy."""
    settings, algorithm, prompts = ctx.settings, ctx.settings.algorithm, ctx.prompts

    # --- data: solutions, correct samples of the initial model, or pairs of a correct and an incorrect one ---
    batches: Callable[[int], HostBatch]
    if METHODS[settings.method].completions == "solutions":
        rows = offline.solution_rows(prompts.records, ctx.chat, settings.max_new_tokens)
        batches = offline.likelihood_batches(settings, rows, 1.0, ctx.seed, ctx.layout)
    elif METHODS[settings.method].completions == "correct":
        assert isinstance(algorithm, Likelihood)
        rows, share = offline.correct_rows(initial_policy_samples(ctx))
        weight = 1.0 if algorithm.normalize_by_correct else share
        batches = offline.likelihood_batches(settings, rows, weight, ctx.seed, ctx.layout)
    else:
        pairs = offline.pair_rows(initial_policy_samples(ctx))
        reference = ReferenceModel(ctx.trainable.initial_model(), settings.reference)
        logprobs = lambda batch: ctx.policy_logprobs(reference.params, batch)  # noqa: E731
        batches = offline.pair_batches(settings, pairs, ctx.seed, ctx.layout, logprobs)

    # --- setup: after sampling, since both may not fit into memory ---
    optimizer = make_optimizer(settings)
    state, frozen = state_from_params(ctx.trainable.read(), optimizer, ctx.layout), ctx.trainable.frozen
    train_step = make_train_step(
        algorithm.loss, ctx.model, optimizer, ctx.layout, state, settings.grad_accum_steps, frozen
    )

    with TrainLoop(ctx.folder, settings, ctx.layout, state) as loop:
        for step in loop.steps():
            if evaluate and loop.eval_due(step):
                loop.log(step, evaluate(frozen.combine(loop.state.params)))
            loop.update(train_step, batches(step))
        if evaluate:
            loop.log(settings.steps, evaluate(frozen.combine(loop.state.params)))
    checkpoint.save(ctx.folder / "params", loop.state.params)


# --- evaluation, initial samples, reward models ---


def check_overlap(settings: RLSettings, workdir: Path, data_dir: Path, records: Sequence[Record]) -> int | None:
    """Returns how many records of `rl.eval_data` are in the training data of this stage or those before it.

    Raises:
      UserError: some are, without `rl.allow_overlap`.
    """
    own = {
        "rl.data": settings.data, "rl.columns": settings.columns,
        "rl.retrain.data": settings.retrain_data, "rl.retrain.columns": settings.retrain_columns,
    }  # fmt: skip
    overlaps = overlap.find(
        records, overlap.questions_of_stages(settings.model_stages, workdir) | overlap.training_questions(own, data_dir)
    )  # fmt: skip
    overlap.check("rl.eval_data", records, overlaps, settings.allow_overlap)
    return overlap.count(overlaps.values())


def greedy_accuracy(ctx: Context, records: Sequence[Record], correct: RewardFunctions) -> Evaluate:
    """Returns a function from the policy's parameters to its greedy accuracy on these records."""
    prompts = eval_prompts(records, ctx.chat, ctx.model.config.max_position_embeddings)
    thinking = thinking_budget(ctx.chat, ctx.settings.max_thinking_tokens)
    greedy = SamplingParams(temperature=0.0, thinking=thinking)

    def evaluate(params: Params) -> dict[str, float]:
        groups = ctx.sampler.generate(params, prompts, greedy)
        texts = [ctx.chat.completion(group[0].tokens) for group in groups]
        rewards, _ = correct.score(texts, records, [True] * len(texts))
        return {"eval_greedy": float(np.mean(rewards == 1))}

    return evaluate


def initial_policy_samples(ctx: Context) -> Path:
    """Returns the file of graded samples of the initial policy; generates it if it is missing."""
    settings, path = ctx.settings, ctx.folder / "samples_of_init.jsonl"
    if not path.is_file():
        records = subsample(ctx.prompts.sets, settings.offline_prompts, ctx.seed)
        samples = SamplesSettings(
            data=settings.data, kind="pointwise", problems=len(records), samples=settings.group_size,
            max_new_tokens=settings.max_new_tokens, max_thinking_tokens=settings.max_thinking_tokens,
            decode_slots=settings.num_decode_slots,
        )  # fmt: skip
        write_rows(path, samples, ctx.with_params(ctx.trainable.initial_model()), records, ctx.seed)
    return path


def check_resumes_in_round(step: int, first_step: int, folder: Path) -> None:
    """Raises a `UserError` where a round has no checkpoint: its steps would be repeated with a later reference."""
    if step < first_step:
        raise UserError(
            f"rl: no checkpoint of step {first_step} or later in {folder / 'checkpoints'} is valid, so this round "
            f"cannot resume; remove {folder} to redo the stage."
        )


def read_reward_model(ctx: Context, folder: Path) -> ScoreRows:
    """Returns `(prompts, completions, ends) -> scores` for the reward model in a folder."""
    settings, reward_model = ctx.settings, reward_models.read(folder, ctx.layout)
    rows = settings.samples_per_step // settings.grad_accum_steps
    score = scorer(reward_model.model, ctx.layout, ctx.prompts.max_length, rows)
    return functools.partial(score, reward_model.params)


def retrain_reward_model(ctx: Context, round_number: int, folder: Path) -> Path:
    """Retrains a folder's reward model on the policy's samples after a round; returns the folder of the new one.

    Its files are complete or missing: a resumed run writes those that are missing.
    """
    settings, rounds = ctx.settings.retrain, ctx.folder / "rounds"
    assert settings is not None
    name = folder.name
    new, stage_folder = rounds / str(round_number) / name, ctx.workdir / name
    if (new / SUMMARY).is_file():
        return new
    if not (new / ROWS).is_file():
        params = ctx.read_round(round_number)
        write_rows(new / ROWS, settings, ctx.with_params(params), ctx.retrain_records, ctx.seed, round_number)
        del params
    before = [stage_folder, *(rounds / str(earlier) / name for earlier in range(1, round_number))]
    old_rows = [earlier / ROWS for earlier in before]
    if settings.lora:
        write_adapters(new, Adapters(settings.lora, str(folder), base_is_reward_model=True))
    start = reward_models.read(folder, ctx.layout, frozen=settings.lora is not None)
    try:
        reward_training.train(new, settings, start, ctx.layout, ctx.seed, [new / ROWS], old_rows)
    except NothingToLearn as error:
        logging.warning("rl: the reward model is not retrained after round %d. %s", round_number, error)
        return folder
    return new
