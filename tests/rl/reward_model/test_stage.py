"""The stages that train reward models: their rows, their batches, what they learn and how it is measured."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import chat
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.reward_model import labels, stage, training
from dsmath_jax.rl.reward_model.held_out import held_out_metrics
from dsmath_jax.rl.reward_model.model import RewardModel, with_reward_head
from dsmath_jax.rl.reward_model.rows import (
    HELD_OUT,
    NothingToLearn,
    Rows,
    batch_of,
    check_labels,
    example_positions,
    examples_of,
    index_of,
    sample_examples,
)
from dsmath_jax.rl.reward_model.settings import RewardModelSettings
from dsmath_jax.rl.reward_model.stage import run
from dsmath_jax.rl.reward_model.training import train
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.checkpoint import save
from dsmath_jax.training.model_files import write_config
from dsmath_jax.workdir import UserError, read_json, read_jsonl, write_jsonl

BAD, END, EOS = 22, 3, 2  # the planted token, which makes its step and all later ones incorrect; a step's last token
KINDS = ("pointwise", "pairwise", "process")


def planted(kind: str, problems: int, samples: int = 4, seed: int = 0) -> list[dict]:
    """Rows of up to three steps of random tokens; from the first step with the planted token on, all are incorrect."""
    noise = np.random.default_rng(seed)
    rows = []
    for problem in range(problems):
        prompt = [1, *noise.integers(4, 20, 3).tolist()]
        for _ in range(samples):
            tokens, ends = [], []
            for step in range(count := int(noise.integers(1, 4))):
                words = noise.integers(4, 20, int(noise.integers(1, 4))).tolist()
                if noise.random() < 0.25:
                    words[int(noise.integers(len(words)))] = BAD
                tokens += [*words, EOS if step == count - 1 else END]
                ends.append(len(tokens) - 1)
            ends = ends if kind == "process" else ends[-1:]
            labels = [float(BAD not in tokens[: end + 1]) for end in ends]
            rows.append({"problem": problem, "prompt": prompt, "completion": tokens, "ends": ends, "labels": labels})
    return rows


def settings_of(kind: str, steps: int, **changes: Any) -> RewardModelSettings:
    given = {
        "data": ("toy/rl",), "kind": kind, "problems": 60, "samples": 4, "max_new_tokens": 12, "batch_size": 32,
        "steps": steps, "checkpoint_every": 1000, "peak_lr": 1e-2, "warmup_steps": 5, "weight_decay": 0.0,
    }  # fmt: skip
    return build(RewardModelSettings, given | changes)


class Counter:
    """A decoder whose hidden state is the mean of the segment's embeddings so far: it counts, and compiles at once."""

    def __init__(self, config: ModelConfig):
        self.config = config

    def apply(self, variables: Any, tokens: Any, positions: Any, segment_ids: Any) -> Any:
        visible = jnp.tril(segment_ids[:, :, None] == segment_ids[:, None, :])
        seen = jnp.einsum("BTS,BSD->BTD", visible, variables["params"]["embedding"][tokens])
        return seen / (1 + positions[..., None])


@pytest.fixture
def counter(model: Decoder) -> RewardModel:
    embedding = np.random.default_rng(0).normal(size=(23, 16)).astype(np.float32)
    untrained: Any = Counter(model.config)
    return RewardModel(untrained, with_reward_head({"embedding": jnp.asarray(embedding)}, 16))


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Rows]:
    def write(rows: Sequence[dict], name: str = "rows.jsonl") -> Rows:
        write_jsonl(tmp_path / name, rows)
        return Rows([tmp_path / name])

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_feature_is_learnt(tmp_path: Path, counter: RewardModel, layout: Layout, kind: str) -> None:
    path, settings = tmp_path / "rows.jsonl", settings_of(kind, 120)
    write_jsonl(path, planted(kind, 150))
    _, summary = train(tmp_path / "out", settings, counter, layout, 0, [path])
    assert summary["auc"] > 0.95, summary
    assert summary["accuracy"] > 0.9
    assert summary["accuracy"] > summary["majority_class"]
    assert summary == read_json(tmp_path / "out" / "summary.json")
    if kind == "process":
        assert summary["last_auc"] > 0.95
        assert summary["min_auc"] > 0.95
        assert summary["mean_auc"] > 0.8


@pytest.mark.parametrize(
    "kind", ["pairwise", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pointwise", "process"))]
)
def test_more_steps_leave_what_as_many_from_scratch_leave(
    tmp_path: Path, counter: RewardModel, layout: Layout, kind: str
) -> None:
    """Although the folder has a summary."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, planted(kind, 60))
    found = {}
    for name, runs in {"whole": [8], "longer": [5, 8]}.items():
        for steps in runs:
            start = RewardModel(counter.model, jax.tree.map(jnp.copy, counter.params))
            trained, summary = train(
                tmp_path / name, settings_of(kind, steps, checkpoint_every=3), start, layout, 0, [path]
            )
        found[name] = (
            jax.tree.map(np.asarray, trained.params),
            summary,
            (tmp_path / name / "metrics.jsonl").read_bytes(),
        )
    jax.tree.map(np.testing.assert_array_equal, found["whole"][0], found["longer"][0])
    assert found["whole"][1:] == found["longer"][1:]


def test_rows_are_read_by_number_from_several_files(tmp_path: Path) -> None:
    rows = planted("process", 5)
    write_jsonl(tmp_path / "a.jsonl", rows[:7])
    write_jsonl(tmp_path / "b.jsonl", rows[7:])
    with Rows([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) as found:
        assert len(found) == len(rows)
        assert [found[i] for i in reversed(range(len(rows)))] == rows[::-1]
        index = index_of(found)
    assert index.num_labels.tolist() == [len(row["labels"]) for row in rows]
    assert index.num_correct_labels.tolist() == [sum(row["labels"]) for row in rows]
    assert index.correct.tolist() == [row["labels"][-1] == 1 for row in rows]
    assert index.tokens.tolist() == [len(row["prompt"]) + len(row["completion"]) for row in rows]
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n[]\n')
    with pytest.raises(UserError, match=r"b\.jsonl, at byte 9: not a JSON object; fix or remove that line"):
        Rows([tmp_path / "b.jsonl"])[1]
    with Rows([]) as none:
        assert len(index_of(none).problem) == len(none) == 0


def test_problems_are_held_out_whole_and_in_every_file(written: Callable[..., Rows]) -> None:
    rows = planted("process", 200)
    index, other = index_of(written(rows)), index_of(written(rows[::-1], "other.jsonl"))
    held_out = {tuple(row["prompt"]) for row, out in zip(rows, index.held_out, strict=True) if out}
    assert held_out.isdisjoint(tuple(row["prompt"]) for row, out in zip(rows, index.held_out, strict=True) if not out)
    assert other.held_out.tolist() == index.held_out.tolist()[::-1]
    assert 0.5 / HELD_OUT < index.held_out.mean() < 1.7 / HELD_OUT


def test_pairs_are_of_one_problem_and_one_is_correct(written: Callable[..., Rows]) -> None:
    rows = planted("pairwise", 40)
    index = index_of(written(rows))
    examples = examples_of("pairwise", index, np.ones(len(rows), bool))
    mixed = {r["problem"] for r in rows if r["labels"] == [1]} & {r["problem"] for r in rows if r["labels"] == [0]}
    assert len(examples) == len(mixed)
    for correct, incorrect in sample_examples(examples, 0, 0, range(3 * len(examples))):
        assert rows[correct]["problem"] == rows[incorrect]["problem"]
        assert (rows[correct]["labels"], rows[incorrect]["labels"]) == ([1], [0])


@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 500))
def test_the_share_of_old_rows_is_exact_over_batches(batch_size: int, share: float, steps: int) -> None:
    new, old = [], []
    for step in range(steps, steps + 20):
        fresh, replayed = example_positions(step, batch_size, share)
        assert len(fresh) + len(replayed) == batch_size
        assert abs(len(replayed) - batch_size * share) <= 1
        new, old = [*new, *fresh], [*old, *replayed]
    before = int(steps * batch_size * share)
    assert old == list(range(before, int((steps + 20) * batch_size * share)))
    assert new == list(range(steps * batch_size - before, steps * batch_size - before + len(new)))


@given(st.integers(0, 9), st.integers(1, 12), st.integers(0, 50))
def test_every_epoch_has_every_example_once(seed: int, count: int, first: int) -> None:
    examples = [([i],) for i in range(count)]
    whole = [i for (i,) in sample_examples(examples, seed, 0, range(3 * count))]
    for epoch in range(3):
        assert sorted(whole[epoch * count : (epoch + 1) * count]) == list(range(count))
    first %= 3 * count
    assert [i for (i,) in sample_examples(examples, seed, 0, range(first, 3 * count))] == whole[first:]


def prompts_in(batch: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    """The first four tokens of each segment."""
    firsts = (batch["positions"] == 0) & (batch["segment_ids"] > 0)
    return [
        tuple(batch["tokens"][row, cell : cell + 4].tolist()) for row, cell in zip(*np.nonzero(firsts), strict=True)
    ]


def test_ten_percent_of_the_batches_are_old_rows(
    tmp_path: Path, counter: RewardModel, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them held out, and each batch a function of its step alone."""
    new, old = planted("process", 60), planted("process", 90, seed=1)
    for row in old:
        row["prompt"] = [1, 21, *row["prompt"][2:]]  # the mark of an old row
    write_jsonl(tmp_path / "new.jsonl", new)
    write_jsonl(tmp_path / "old.jsonl", old)
    batches: dict[int, dict] = {}

    def capture(make_batch: Callable[[int], dict], steps: int) -> Callable[[int], dict]:
        batches.update({step: make_batch(step) for step in range(steps)})
        jax.tree.map(np.testing.assert_array_equal, make_batch(13), batches[13])
        return make_batch

    monkeypatch.setattr(training, "Prefetch", capture)
    rows, old_rows = [tmp_path / "new.jsonl"], [tmp_path / "old.jsonl"]
    train(tmp_path / "out", settings_of("process", 20), counter, layout, 0, rows, old_rows)
    prompts = [prompts_in(batch) for batch in batches.values()]
    assert {len(found) for found in prompts} == {32}
    marked = [sum(prompt[1] == 21 for prompt in found) for found in prompts]
    assert sum(marked) == int(20 * 32 * 0.1)
    assert set(marked) == {3, 4}
    with Rows([tmp_path / "old.jsonl"]) as rows:
        held_out = {tuple(row["prompt"]) for row, out in zip(old, index_of(rows).held_out, strict=True) if out}
    assert held_out
    assert held_out.isdisjoint(prompt for found in prompts for prompt in found)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_alike_are_refused(tmp_path: Path, counter: RewardModel, layout: Layout, kind: str) -> None:
    rows = [row | {"labels": [1.0] * len(row["ends"])} for row in planted(kind, 30)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    why = (
        "none of the problems has a correct and an incorrect completion"
        if kind == "pairwise"
        else r"all \d+ labels are correct"
    )
    with pytest.raises(NothingToLearn, match=rf"^process_model: {why} in the training rows, so there is nothing"):
        train(tmp_path / "process_model", settings_of(kind, 3), counter, layout, 0, [tmp_path / "rows.jsonl"])
    assert not (tmp_path / "process_model").exists()


def test_held_out_labels_that_are_alike_and_no_rows_at_all_are_refused(written: Callable[..., Rows]) -> None:
    rows = planted("process", 40)
    index = index_of(written(rows))
    alike = [
        row | {"labels": [0.0] * len(row["ends"])} if out else row
        for row, out in zip(rows, index.held_out, strict=True)
    ]
    index = index_of(written(alike, "alike.jsonl"))
    check_labels("reward", "process", index, examples_of("process", index, ~index.held_out), "training")
    with pytest.raises(NothingToLearn, match="in the held-out rows"):
        check_labels("reward", "process", index, examples_of("process", index, index.held_out), "held-out")
    for kind in KINDS:
        with pytest.raises(NothingToLearn):
            check_labels("reward", kind, index_of(written([])), [], "training")


def test_completions_without_tokens_teach_nothing(written: Callable[..., Rows]) -> None:
    empty = {"problem": 0, "prompt": [1, 2], "completion": [], "ends": [], "labels": []}
    rows = written([empty, *planted("process", 3)])
    index = index_of(rows)
    for kind in ("pointwise", "process"):
        assert [0] not in [side for example in examples_of(kind, index, np.ones(13, bool)) for side in example]
    assert not batch_of([[empty]], RowShapes(8, 1, 1, Layout(make_mesh())))["weights"].any()


def test_a_process_model_is_measured_by_steps_and_by_completions(written: Callable[..., Rows]) -> None:
    rows = [
        {
            "problem": i,
            "prompt": [1],
            "completion": [0] * len(labels),
            "ends": list(range(len(labels))),
            "labels": labels,
        }
        for i, labels in enumerate([[1.0, 1.0], [1.0, 0.5, 1.0], [0.25, 0.0], [1.0, 0.0, 0.0]])
    ]
    logits = [[2, 1], [1, -1, 3], [-1, 2], [1, -2, -3]]

    def score(prompts: Any, completions: Any, ends: Any) -> list[np.ndarray]:
        assert [len(e) for e in ends] == [len(c.tokens) for c in completions]
        return [np.array(logits[number], float) for number in (completed.pop(0) for _ in completions)]

    completed = list(range(4))
    found = written(rows)
    examples = examples_of("process", index_of(found), np.ones(4, bool))
    summary = held_out_metrics("process", found, examples, score, 1)
    assert summary["n"] == 10
    assert summary["accuracy"] == 0.8  # incorrect at the second step of the second and the last of the third
    assert summary["majority_class"] == 0.6
    assert summary["last_auc"] == pytest.approx(3 / 4)
    assert summary["min_auc"] == pytest.approx(3.5 / 4)
    assert summary["mean_auc"] == 1.0
    completed = [0]
    alone = held_out_metrics("process", found, examples[3:], lambda *_: [np.array(logits[3], float)], 1)
    assert alone["last_auc"] is None
    json.dumps(alone, allow_nan=False)


def test_pairs_are_measured_within_their_problem(written: Callable[..., Rows]) -> None:
    labeled = [(0, 1.0), (0, 0.0), (0, 0.0), (1, 1.0), (1, 0.0), (2, 1.0)]  # the last problem has no pair
    rows = [
        {"problem": p, "prompt": [p], "completion": [i], "ends": [0], "labels": [label]}
        for i, (p, label) in enumerate(labeled)
    ]
    logits = [5.0, 4.0, 6.0, -8.0, -9.0]
    found = written(rows)
    examples = examples_of("pairwise", index_of(found), np.ones(6, bool))
    score = lambda _, completions, __: [np.array([logits[c.tokens[0]]]) for c in completions]  # noqa: E731
    summary = held_out_metrics("pairwise", found, examples, score, 8)
    assert summary["n"] == 3
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["majority_class"] == 0.5
    assert summary["auc"] == pytest.approx(3 / 6)


class Policy:
    """Stands in for the sampler: its answers are correct by chance, and their first step tells which are."""

    def __init__(
        self, model: Any, layout: Layout, stop_ids: Sequence[int], max_new_tokens: int, rows: int, dtypes: DecodeDtypes
    ) -> None:
        del model, layout, max_new_tokens, rows, dtypes
        self._stop = stop_ids[0]

    def generate(
        self, params: Any, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, step: int,
        prompt_ids: Sequence[int], begun: Sequence[int],
    ) -> Iterator[list[Completion]]:  # fmt: skip
        for place, number in enumerate(prompt_ids):
            noise = np.random.default_rng([number, sampling.seed, step])
            correct = [noise.random() < 0.5 for _ in range(sampling.samples)]
            texts = [" 1\nThe answer is 7." if each else " 9\nThe answer is 9." for each in correct]
            yield [
                Completion(place, i, [*TOKENIZER.encode(text), self._stop], [], [], "eos")
                for i, text in enumerate(texts)
            ]


TOKENIZER: Any = None


def test_a_stage_runs_from_the_sft_model(
    tmp_path: Path, make_model: Callable[..., Decoder], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    global TOKENIZER
    texts = ["The answer is 7.", "1 + 6 = 7 9 9", "User: what is 6 + 1?\n\nAssistant:"]
    tokenizers.train_sentencepiece(texts, tmp_path / "tokenizer" / "tokenizer.model", 300, chat.MARKERS)
    TOKENIZER = tokenizers.load(tmp_path / "tokenizer")
    model = make_model(num_hidden_layers=1, vocab_size=300, max_position_embeddings=128)
    write_config(tmp_path / "sft", model.config)
    save(tmp_path / "sft" / "params", jax.jit(lambda: initial_params(model, jax.random.key(1)))())
    records = [{"id": str(i), "question": f"what is {i} + 1?", "solution": "", "answer": "7"} for i in range(50)]
    write_jsonl(tmp_path / "data" / "problems" / "rl.jsonl", records)
    monkeypatch.setattr(labels, "Sampler", Policy)
    folder = tmp_path / "process_model"
    changes = {"init": "sft", "completions": 2, "problems": 40, "max_new_tokens": 30, "batch_size": 16}
    arguments = (
        folder,
        settings_of("process", 60, **changes),
        None,
        ChatSettings(template="paper"),
        tmp_path / "data",
        layout,
        0,
    )
    summary = run(*arguments)
    assert summary["last_auc"] > 0.95  # the first steps are labeled by chance
    assert {"metrics.jsonl", "samples.jsonl", "summary.json", "model.json", "params"} <= {
        path.name for path in folder.iterdir()
    }
    rows = list(read_jsonl(folder / "samples.jsonl"))
    assert len(rows) == 40 * 4
    assert all(len(row["ends"]) == 2 for row in rows)
    assert run(*arguments) == summary


def test_questions_are_drawn_evenly_over_the_data_sets(
    tmp_path: Path, make_model: Callable[..., Decoder], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"one": 20, "other": 20, "short": 2}.items():
        rows = [{"question": f"{name} {i}?", "answer": str(i)} for i in range(size)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    tokenizers.train_sentencepiece(["1 + 1 = 2"], tmp_path / "tokenizer" / "tokenizer.model", 268, chat.MARKERS)
    model = make_model(vocab_size=268)
    write_config(tmp_path / "sft", model.config)
    save(tmp_path / "sft" / "params", jax.jit(lambda: initial_params(model, jax.random.key(1)))())
    sampled: list[Record] = []

    def record(path: Path, settings: Any, policy: Any, records: list[Record], seed: int) -> None:
        sampled.extend(records)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write_rows", record)
    settings = settings_of("process", 3, data=("one.jsonl", "other.jsonl", "short.jsonl"), problems=12)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "process_model", settings, None, ChatSettings(template="paper"), tmp_path / "data", layout, 0)
    names = [record.id.split("/")[0] for record in sampled]
    assert names == ["one"] * 5 + ["other"] * 5 + ["short"] * 2


def test_a_kind_of_the_other_stage_is_refused(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(UserError, match=r"reward_model\.kind must be one of 'pointwise', 'pairwise'; got 'process'"):
        run(tmp_path / "reward_model", settings_of("process", 3), None, ChatSettings(), tmp_path, layout, 0)
