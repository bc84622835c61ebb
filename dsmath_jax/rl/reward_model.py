"""Stage `reward_model`: an outcome reward model, trained on the SFT model's own samples as the rule labels them.

Paper §4.1.2. The model is the decoder with a linear head on the last token; its score is the logit of "the answer is
right".
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks, chat, tokenizer
from dsmath_jax.grading import answers
from dsmath_jax.models.llama import Llama
from dsmath_jax.progress import track
from dsmath_jax.rl.rollouts import batch_of
from dsmath_jax.sampling.sampler import Completion, Sampler
from dsmath_jax.sharding import abstract, barrier, make_mesh, process_share, replicate, shardings_like, to_host
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import fit
from dsmath_jax.training.model_files import abstract_params, read_model, read_params, write_config
from dsmath_jax.training.objectives import Batch, Sums
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Ahead
from dsmath_jax.training.step import init_state, make_train_step
from dsmath_jax.workdir import UserError, data_folder, read_jsonl, write_json, write_jsonl

HELD_OUT_SHARE = 0.2


def scores(model: Llama, params: Any, batch: Batch) -> Float[Array, " B"]:
    """The logit of "right" at each row's last token."""
    hidden, _ = model.apply({"params": params["model"]}, batch["tokens"], batch["positions"], batch["segment_ids"])
    last = jnp.maximum(jnp.sum(batch["segment_ids"], axis=1) - 1, 0)
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    return (hidden @ params["reward"]["kernel"])[:, 0] + params["reward"]["bias"][0]


def pointwise(model: Llama, params: Any, batch: Batch) -> Sums:
    """Binary cross-entropy (nats) of `labels [B]` where `weights [B]` is 1."""
    logits, labels, weights = scores(model, params, batch), batch["labels"], batch["weights"]
    losses = jnp.logaddexp(0.0, logits) - labels * logits
    right = ((logits > 0) == (labels > 0.5)).astype(jnp.float32)
    return (jnp.sum(losses * weights), jnp.sum(weights)), {"accuracy": jnp.sum(right * weights)}


def with_head(params: Any, width: int) -> Any:
    """Decoder parameters joined by a head of zeros, which scores everything 0."""
    return {"model": params, "reward": {"kernel": jnp.zeros((width, 1)), "bias": jnp.zeros(1)}}


def read(workdir: Path, mesh: Mesh) -> tuple[Llama, Any]:
    """The finished reward model and its parameters."""
    model = read_model(workdir / "reward_model", mesh)
    shapes = jax.eval_shape(lambda p: with_head(p, model.config.width), abstract_params(model.config, mesh))
    like = abstract(shapes, shardings_like(shapes, mesh))
    return model, checkpoint.restore(workdir / "reward_model" / "params", like)


def run(config: ConfigDict, workdir: Path) -> dict:
    """Samples from `sft/`, labels, trains from the stage `reward_model.init`.

    Writes `reward_model/{samples.jsonl,params,model.json,metrics.jsonl,summary.json}`.
    """
    ours, folder, mesh = config.reward_model, workdir / "reward_model", make_mesh(**config.mesh)
    path = folder / "samples.jsonl"
    if not path.exists():
        _write_samples(config, workdir, mesh, path)
    barrier("reward model samples")
    rows = list(read_jsonl(path))
    held_out_from = int(ours.problems * (1 - HELD_OUT_SHARE))
    train = [row for row in rows if row["problem"] < held_out_from]
    held_out = [row for row in rows if row["problem"] >= held_out_from]
    for name, part in (("training", train), ("held-out", held_out)):
        if len({row["correct"] for row in part}) < 2:
            raise UserError(
                f"reward_model: all {len(part)} {name} samples of the SFT model are graded alike: nothing can be told "
                "apart; train sft more or less, raise reward_model.problems, or leave the stage out with --stages."
            )
    model = read_model(workdir / ours.init, mesh)
    write_config(folder, model.config)
    source = read_params(workdir / ours.init, model.config, mesh)
    optimizer = make_optimizer(ours, ours.steps)
    state = init_state(lambda params: with_head(params, model.config.width), optimizer, mesh, source)
    step = make_train_step(pointwise, model, optimizer, mesh, state, ours.accumulate)
    length = max(len(row["prompt"]) + len(row["completion"]) for row in rows)

    def make_batch(number: int) -> dict[str, np.ndarray]:
        chosen = np.random.default_rng([config.seed, number]).integers(len(train), size=ours.batch_size)
        part = [train[i] for i in chosen]
        labels = np.array([row["correct"] for row in part], np.float32)
        batch = batch_of(*_completions(part), length) | {"labels": labels, "weights": np.ones(len(part), np.float32)}
        return process_share(batch, mesh)

    state = fit("reward_model", folder, ours, mesh, state, step, Ahead(make_batch, ours.steps))
    labels = np.array([row["correct"] for row in held_out], bool)
    found = scorer(model, mesh, length, ours.batch_size)(state.params, *_completions(held_out))
    summary = {"accuracy": float(np.mean((found > 0) == labels)), "auc": auc(found, labels), "n": len(labels)}
    summary["majority_class"] = float(max(labels.mean(), 1 - labels.mean()))
    if jax.process_index() == 0:
        write_json(folder / "summary.json", summary)
    return summary


def _write_samples(config: ConfigDict, workdir: Path, mesh: Mesh, path: Path) -> None:
    ours = config.reward_model
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    records = [r for name in ours.data for r in benchmarks.load(name, data_folder(config, workdir))][: ours.problems]
    model = read_model(workdir / "sft", mesh)
    params = read_params(workdir / "sft", model.config, mesh)
    prompts = [chat.prompt_ids(text_tokenizer, record.question) for record in records]
    sampler = Sampler(model, mesh, text_tokenizer.stop_ids, ours.max_new_tokens)
    groups = sampler.generate(params, prompts, samples=ours.samples, temperature=1.0, seed=config.seed)
    rows = [
        {
            "problem": index,
            "prompt": prompts[index],
            "completion": c.tokens,
            "correct": answers.correct(text_tokenizer.decode(c.tokens), records[index].answer),
        }
        for index, group in enumerate(track(groups, "reward_model samples", len(prompts)))
        for c in group
    ]
    if jax.process_index() == 0:
        write_jsonl(path, rows)


def _completions(rows: Sequence[dict]) -> tuple[list[list[int]], list[Completion]]:
    """Stored samples as prompts and completions; the scores do not need their log-probabilities."""
    zeros = [[0.0] * len(row["completion"]) for row in rows]
    return [row["prompt"] for row in rows], [
        Completion(i, 0, row["completion"], zero, True) for i, (row, zero) in enumerate(zip(rows, zeros, strict=True))
    ]


def scorer(
    model: Llama, mesh: Mesh, length: int, batch_size: int
) -> Callable[[Any, Sequence[Sequence[int]], Sequence[Completion]], np.ndarray]:
    """A function `(params, prompts, completions) -> scores [completions]`; `length` is the longest row it is given."""
    compiled = jax.jit(functools.partial(scores, model))

    def score(params: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]) -> np.ndarray:
        found = []
        for start in range(0, len(completions), batch_size):
            part = list(completions[start : start + batch_size])
            filled = part + part[:1] * (batch_size - len(part))
            found.append(to_host(compiled(params, replicate(batch_of(prompts, filled, length), mesh)))[: len(part)])
        return np.concatenate(found)

    return score


def auc(found: np.ndarray, labels: np.ndarray) -> float:
    """The share of (right, wrong) pairs that the scores put in order; a tie counts half."""
    right, wrong = found[labels], found[~labels]
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))
