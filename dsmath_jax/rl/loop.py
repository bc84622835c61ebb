"""Stage `rl`: every method of the paper's Table 10 from the same start (paper §4.1, §5.2, Algorithm 1)."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks, chat
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl import offline, reward_model
from dsmath_jax.rl.explore import Explorer, Judge, Models, Questions
from dsmath_jax.rl.labelling import write_rows
from dsmath_jax.rl.methods import REWARD_STAGES, Method, method_of
from dsmath_jax.rl.reward_rows import NothingToLearn
from dsmath_jax.rl.reward_stage import ROWS, reward_model_fields, train
from dsmath_jax.rl.rewards import RuleReward
from dsmath_jax.rl.scoring import Reference, TokenScorer
from dsmath_jax.sampling.sampler import Sampler
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import fit
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.step import TrainState, TrainStep, make_train_step, state_of
from dsmath_jax.workdir import UserError, data_folder


def run(config: ConfigDict, workdir: Path) -> dict:
    """Reads `rl.data`, the stage `rl.init` and the reward model's, where the method has one.

    Writes `rl/{params,model.json,metrics.jsonl,timing.jsonl,samples.jsonl}`, `rl/rollouts/` (explorations that a
    checkpoint may still need), `rl/samples_of_init.jsonl` (RFT, DPO) and `rl/rounds/` (iterative GRPO).

    Raises:
      UserError: the settings cannot work, or a model or a record is missing.
    """
    method = method_of(config.rl)
    _check(config.rl)
    with RuleReward({"correct": 1.0}, config.rl.reward_seconds, config.rl.reward_workers) as right:
        stage = _Stage(config, workdir, method, right)
        if method.data == "policy":
            stage.explore()
        else:
            stage.learn()
    return {"questions": len(stage.questions.prompts)}


def _check(ours: ConfigDict) -> None:
    """Raises a `UserError` for numbers that cannot work."""
    if ours.group_size < 2:
        raise UserError(f"rl.group_size is {ours.group_size}; a group needs at least 2 completions.")
    if ours.temperature <= 0:
        raise UserError(f"rl.temperature is {ours.temperature}; exploring needs one above 0.")
    if not all(isinstance(rule, tuple) and len(rule) == 2 for rule in ours.rules):
        raise UserError(f"rl.rules is {ours.rules}; give pairs of a rule and its weight, such as (('correct', 1.0),).")
    for name in ("prompts", "num_updates", "rounds", "max_new_tokens"):
        if ours[name] < 1:
            raise UserError(f"rl.{name} is {ours[name]}; it must be at least 1.")
    if ours.old_logprobs not in ("trainer", "sampler"):
        raise UserError(f"Unknown rl.old_logprobs '{ours.old_logprobs}'; known ones are trainer, sampler.")
    if ours.steps % ours.rounds or ours.steps // ours.rounds % ours.num_updates:
        raise UserError(
            f"rl.steps={ours.steps} does not divide into rl.rounds={ours.rounds} of whole explorations of "
            f"rl.num_updates={ours.num_updates} steps; change one of them."
        )


class _Stage:
    """What all methods share: the questions, the model, its start and the ways to score it."""

    def __init__(self, config: ConfigDict, workdir: Path, method: Method, right: RuleReward):
        self.ours, self.seed, self.method, self.workdir, self.right = config.rl, config.seed, method, workdir, right
        self.folder, self.layout = workdir / "rl", Layout(make_mesh(MeshSettings(**config.mesh)))
        self.tokenizer = tokenizers.load(workdir / "tokenizer")
        self.data_dir = data_folder(config, workdir)
        self.model = read_model(workdir / self.ours.init, self.layout)
        self.questions = _questions(self.ours, self.data_dir, self.tokenizer, self.model.config.context)
        write_config(self.folder, self.model.config)
        self.logprobs = TokenScorer(
            lambda params, batch: batch_logprobs(self.model, params, batch, self.ours.temperature)[0],
            self.layout, self.ours.accumulate,
        )  # fmt: skip
        self.optimizer = make_optimizer(self.ours, self.ours.steps)
        rows = self.ours.rows or self.ours.prompts * self.ours.group_size
        self.sampler = Sampler(
            self.model, self.layout, self.tokenizer.stop_ids, self.ours.max_new_tokens, rows, self.ours.cache_dtype
        )

    def start(self) -> Any:
        """The parameters that the policy begins with, read anew: an update takes what it is given."""
        return read_params(self.workdir / self.ours.init, self.model.config, self.layout)

    def state(self) -> TrainState:
        params = self.method.initial_params(self.start, self.model.config.width)
        return state_of(params, self.optimizer, self.layout)

    def train_step(self, state: TrainState) -> TrainStep:
        objective = self.method.objective(self.ours)
        return make_train_step(objective, self.model, self.optimizer, self.layout, state, self.ours.accumulate)

    def examiner(self) -> Callable[[Any], dict[str, float]] | None:
        """Greedy accuracy on `rl.eval_data`, None where there is none."""
        ours = self.ours
        if not ours.eval_data:
            return None
        records = [r for name in ours.eval_data for r in benchmarks.load(name, self.data_dir)][: ours.eval_problems]
        prompts = [chat.prompt_ids(self.tokenizer, record.question) for record in records]

        def examine(params: Any) -> dict[str, float]:
            groups = self.sampler.generate(self.method.policy(params), prompts, temperature=0.0)
            texts = [self.tokenizer.decode(group[0].tokens) for group in groups]
            right, _ = self.right.score(texts, records, [True] * len(texts))
            return {"eval_greedy": float(np.mean(right == 1))}

        return examine

    def learn(self) -> None:
        """Trains on completions that do not depend on the policy."""
        ours = self.ours
        if self.method.data == "solutions":
            asked = self.questions.records, self.questions.prompts
            rows = offline.fixed_rows(*asked, self.tokenizer, ours.max_new_tokens)
            batch_at: Any = offline.likelihood_batches(ours, rows, 1.0, self.seed, self.layout)
        elif self.method.data == "right":
            rows, share = offline.right_rows(self.samples_of_init())
            weight = 1.0 if ours.kept else share
            batch_at = offline.likelihood_batches(ours, rows, weight, self.seed, self.layout)
        else:
            pairs, reference = offline.pair_rows(self.samples_of_init()), Reference(self.start(), ours.reference)
            batch_at = offline.pair_batches(ours, pairs, self.seed, self.layout, reference, self.logprobs)
        state = self.state()  # after the sampling: there is not always room for both
        fit("rl", self.folder, ours, self.layout, state, self.train_step(state), batch_at, self.examiner())

    def samples_of_init(self) -> Path:
        """The file of graded samples of the model that the policy starts from; it is made where it is not there."""
        ours, path = self.ours, self.folder / "samples_of_init.jsonl"
        if path.is_file():
            return path
        records = self.questions.records[: ours.questions or None]
        fields = reward_model_fields(
            ours.data, "pointwise", len(records), ours.group_size, max_new_tokens=ours.max_new_tokens,
            rows=ours.rows or ours.prompts * ours.group_size,
        )  # fmt: skip
        write_rows(
            path, "pointwise", ConfigDict(fields), self.model, self.start(), self.tokenizer, records, self.layout,
            self.seed,
        )  # fmt: skip
        return path

    def explore(self) -> None:
        """Trains on what the policy draws, in `rl.rounds` rounds (Algorithm 1)."""
        ours, state = self.ours, self.state()
        step, start = self.train_step(state), self.start
        judged_by = self.workdir / REWARD_STAGES.get(self.method.reward, "")
        with RuleReward(dict(ours.rules), ours.reward_seconds, ours.reward_workers) as rules:
            for number in range(1, ours.rounds + 1):
                last, following = number == ours.rounds, self.folder / "rounds" / str(number)
                if last or checkpoint.damage(following / "params"):
                    explorer = self.explorer(rules, start, judged_by)
                    until = None if last else number * (ours.steps // ours.rounds)
                    state = fit(
                        "rl", self.folder, ours, self.layout, state, step, explorer, self.examiner(), until=until,
                        exported=self.method.policy,
                    )  # fmt: skip
                    explorer.close()
                    del explorer  # with its reference and reward model: there is not always room for the next ones
                    if not last:
                        checkpoint.save(following / "params", state.params)
                if not last:
                    judged_by, start = self.next_round(number, judged_by)

    def explorer(self, rules: RuleReward, start: Callable[[], Any], judged_by: Path) -> Explorer:
        """`start` reads the reference, where one is needed."""
        ours = self.ours
        judge: Judge | None = None
        if self.method.reward != "rule":
            model, params = reward_model.read(judged_by, self.layout)
            rows = ours.prompts * ours.group_size // ours.accumulate
            score = reward_model.scorer(model, self.layout, self.questions.length + 1, rows)
            judge = functools.partial(score, params)
        values = functools.partial(reward_model.token_scores, self.model)
        models = Models(
            self.logprobs, Reference(start(), ours.reference) if self.method.has_reference(ours) else None,
            TokenScorer(values, self.layout, ours.accumulate) if self.method.has_values else None, judge,
        )  # fmt: skip
        samples = StepLog(self.folder / "samples.jsonl", checkpoint.Checkpoints(self.folder / "checkpoints").latest())
        return Explorer(
            ours, self.method, self.seed, self.layout, self.folder, self.questions, self.tokenizer, self.sampler, rules,
            models, samples,
        )  # fmt: skip

    def next_round(self, number: int, judged_by: Path) -> tuple[Path, Callable[[], Any]]:
        """The reward model trained further on the policy's samples, and what reads the policy, the next reference.

        Each is a folder below `rounds/`, complete or not there: a killed run makes what is missing.
        """
        ours, folder = self.ours, self.folder / "rounds" / str(number)
        read_policy = functools.partial(read_params, folder, self.model.config, self.layout)
        name, settings = judged_by.name, ours.retrain
        new, records = folder / name, self.questions.records[: settings.problems]
        if not (new / ROWS).is_file():
            write_rows(
                new / ROWS, settings.kind, settings, self.model, read_policy(), self.tokenizer, records, self.layout,
                self.seed, number,
            )  # fmt: skip
        before = [self.workdir / name, *(self.folder / "rounds" / str(n) / name for n in range(1, number))]
        model, params = reward_model.read(judged_by, self.layout)
        try:
            old = [earlier / ROWS for earlier in before]
            train(name, new, settings.kind, settings, model, params, [new / ROWS], self.layout, self.seed, old)
        except NothingToLearn as error:
            logging.warning("rl: the reward model stays as it is after round %d. %s", number, error)
            return judged_by, read_policy
        return new, read_policy


def _questions(ours: ConfigDict, data_dir: Path, text_tokenizer: Tokenizer, context: int) -> Questions:
    """The records whose prompts are short enough.

    Raises:
      UserError: none is, or a prompt with its completion may outgrow the model's context.
    """
    records = [r for name in ours.data for r in benchmarks.load(name, data_dir)]
    asked = [(record, chat.prompt_ids(text_tokenizer, record.question)) for record in records]
    kept = [(record, prompt) for record, prompt in asked if len(prompt) <= ours.max_prompt_tokens]
    if len(kept) < len(asked):
        left_out, limit = len(asked) - len(kept), ours.max_prompt_tokens
        logging.warning("rl: %d of %d prompts exceed %d tokens and are left out.", left_out, len(asked), limit)
    if not kept:
        raise UserError(
            f"rl: no prompt of rl.data has at most {ours.max_prompt_tokens} tokens; raise rl.max_prompt_tokens."
        )
    longest = max(len(prompt) for _, prompt in kept) + ours.max_new_tokens
    if longest > context:
        raise UserError(
            f"rl: a prompt and its completion may have {longest} tokens, more than the model's context of {context}; "
            "lower rl.max_prompt_tokens or rl.max_new_tokens."
        )
    return Questions([record for record, _ in kept], [prompt for _, prompt in kept], longest - 1)
