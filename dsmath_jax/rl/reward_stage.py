"""Stages `reward_model` and `process_model`: reward models trained on the SFT model's own samples (paper §4.1.2-4.1.4).

Iterative GRPO trains on with `train`, on the policy's samples and some of the data before them (Algorithm 1).
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.models.llama import Llama
from dsmath_jax.rl.judging import judge
from dsmath_jax.rl.labelling import check_settings, write_rows
from dsmath_jax.rl.reward_model import OBJECTIVES, read, scorer, with_head
from dsmath_jax.rl.reward_rows import NEW, OLD, Rows, batch_of, check_labels, drawn, examples_of, index_of, places_of
from dsmath_jax.rl.rollouts import padded_length
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.training.loop import fit
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.prefetch import Ahead
from dsmath_jax.training.step import make_train_step, state_of
from dsmath_jax.workdir import UserError, data_folder, read_json, write_json

KINDS = {"reward_model": ("pointwise", "pairwise"), "process_model": ("process",)}
ROWS, SUMMARY = "samples.jsonl", "summary.json"


def reward_model_fields(
    data: Sequence[str],
    kind: str,
    problems: int,
    samples: int,
    *,
    init: str = "pretrain",
    completions: int = 8,
    estimation: str = "hard",
    delimiter: str = "\n",
    replay: float = 0.1,
    max_new_tokens: int = 1024,
    rows: int = 256,
    batch_size: int = 256,
) -> dict:
    """The fields of a config's parts `reward_model` and `process_model`, to be joined by `loop_fields` and `adamw`.

    Args:
      data: benchmarks whose questions are sampled from.
      kind: "pointwise" (binary cross-entropy) or "pairwise" (Bradley-Terry) for outcomes, "process" for steps.
      problems: the first so many questions are taken.
      samples: completions of each.
      init: the stage whose model it is trained from: "pretrain" (paper §4.2) or "sft".
      completions: of each prefix of steps, N of Math-Shepherd.
      estimation: a step's label: "hard", whether any of them is right, or "soft", the share that is.
      delimiter: parts a completion into its steps.
      replay: the share of a batch that is drawn from the data of earlier rounds, where there are any (paper §4.1.4).
      max_new_tokens: the length limit of a completion.
      rows: completions that are sampled at a time.
      batch_size: rows of a training step; pairs of rows for "pairwise".
    """
    return dict(locals()) | {"data": tuple(data)}


def run(name: str, config: ConfigDict, workdir: Path) -> dict:
    """Samples from `sft/` on the benchmarks of `data`, labels, and trains from the stage that `init` names.

    Writes `<name>/{samples.jsonl,params,model.json,metrics.jsonl,summary.json}`; `name` is a key of `KINDS`.
    """
    settings, folder, layout = config[name], workdir / name, Layout(make_mesh(MeshSettings(**config.mesh)))
    if settings.kind not in KINDS[name]:
        raise UserError(f"Unknown {name}.kind '{settings.kind}'; known ones are {', '.join(KINDS[name])}.")
    check_settings(settings, settings.kind)
    path = folder / ROWS
    if not path.is_file():
        data = data_folder(config, workdir)
        records = [r for source in settings.data for r in benchmarks.load(source, data)][: settings.problems]
        policy = read_model(workdir / "sft", layout)
        params = read_params(workdir / "sft", policy.config, layout)
        tokenizer = tokenizers.load(workdir / "tokenizer")
        write_rows(path, settings.kind, settings, policy, params, tokenizer, records, layout, config.seed)
        del params  # there is not always room for two models
    model = read_model(workdir / settings.init, layout)
    decoder = read_params(workdir / settings.init, model.config, layout)
    whole = with_head(decoder, model.config.width)
    whole["reward"] = layout.replicate(whole["reward"])
    _, summary = train(name, folder, settings.kind, settings, model, whole, [path], layout, config.seed)
    return summary


def train(
    what: str,
    folder: Path,
    kind: str,
    settings: ConfigDict,
    model: Llama,
    params: Any,
    rows: Sequence[Path],
    layout: Layout,
    seed: int,
    old_rows: Sequence[Path] = (),
) -> tuple[Any, dict]:
    """Trains a reward model on the rows whose problems are not held out, and judges it by the others.

    The optimizer and its schedule begin anew. With old rows, a share `settings.replay` of the examples is drawn from
    those of them that are not held out: floor(n x batch_size x replay) of the first n batches together, all old
    examples once before any comes again, in an order that the seed alone decides.

    Args:
      what: the name beside the progress bar, and in messages.
      folder: gets what `loop.fit` writes, `model.json` and, last, `summary.json`; a folder that has it is read.
      kind: a key of `reward_model.OBJECTIVES`.
      settings: `reward_model_fields`, `loop_fields` and the optimizer's.
      model, params: where training starts, in the form of `with_head`; the parameters are donated.
      rows: JSONL files of `labelling.write_rows`.
      layout: where the parameters lie.
      seed: of the order of the rows.
      old_rows: files of earlier rounds.

    Returns:
      the trained parameters and the summary.

    Raises:
      NothingToLearn: the labels of the training or the held-out rows are all alike.
    """
    if (folder / SUMMARY).is_file():
        return read(folder, layout)[1], read_json(folder / SUMMARY)
    with Rows(rows) as new, Rows(old_rows) as old:
        index, old_index = index_of(new), index_of(old)
        learnt = examples_of(kind, index, ~index.held_out)
        held_out = examples_of(kind, index, index.held_out)
        check_labels(what, kind, index, learnt, "training")
        check_labels(what, kind, index, held_out, "held-out")
        again = examples_of(kind, old_index, ~old_index.held_out)
        share = settings.replay if again else 0.0
        longest = int(np.concatenate([index.tokens, old_index.tokens]).max())
        width = padded_length(longest, layout)

        def make_batch(step: int) -> dict[str, np.ndarray]:
            fresh, replayed = places_of(step, settings.batch_size, share)
            taken = [
                [source[number] for number in example]
                for source, examples, stream, places in ((new, learnt, NEW, fresh), (old, again, OLD, replayed))
                for example in drawn(examples, seed, stream, places)
            ]
            return layout.share(batch_of(kind, taken, width))

        write_config(folder, model.config)
        optimizer = make_optimizer(settings, settings.steps)
        state = state_of(params, optimizer, layout)
        step = make_train_step(OBJECTIVES[kind], model, optimizer, layout, state, settings.accumulate)
        trained = fit(what, folder, settings, layout, state, step, Ahead(make_batch, settings.steps)).params
        score = functools.partial(scorer(model, layout, longest, settings.batch_size), trained)
        summary = judge(kind, new, held_out, score, settings.batch_size)
    if jax.process_index() == 0:
        write_json(folder / SUMMARY, summary)
    barrier(f"judged {folder}")
    return trained, summary
