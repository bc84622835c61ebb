"""Reward models: the tokens that they score, their losses, and how completions are scored."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.reward_model.model import OBJECTIVES, SIDES, auc, read, scorer, token_scores, with_reward_head
from dsmath_jax.rl.reward_model.rows import batch_of
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.checkpoint import save
from dsmath_jax.training.model_files import write_config
from dsmath_jax.training.step import TrainState, make_train_step

WIDTH = 16
NOISE = np.random.default_rng(0)
SEQUENCES = [
    ([1, 7, 3], [4, 5, 2]),
    ([1, 9], [8, 6, 9, 4, 2]),
    ([1, 4], [6, 2]),
    ([1], [9, 9, 2]),
    ([1, 5, 5], [2]),
    ([2], [3]),
]
ENDS = [[1, 2], [0, 2, 4], [1], [0, 1, 2], [0], [0]]


def rows(soft: bool = False) -> list[dict]:
    noise = np.random.default_rng(1)
    draw: Callable[[int], Any] = noise.random if soft else lambda size: noise.integers(2, size=size)
    return [
        {"prompt": prompt, "completion": completion, "ends": ends, "labels": draw(len(ends)).tolist()}
        for (prompt, completion), ends in zip(SEQUENCES, ENDS, strict=True)
    ]


def batch(kind: str, count: int = 6, soft: bool = False, parts: int = 1) -> dict[str, np.ndarray]:
    """A packed batch that would have `count` rows, in `parts` micro-batches, with an example in each."""
    found = rows(soft)
    if kind != "process":
        found = [row | {"ends": row["ends"][-1:], "labels": row["labels"][-1:]} for row in found]
    sides = SIDES[kind]
    shapes = RowShapes(8 * sides, count, parts, Layout(make_mesh()))
    return batch_of([found[i : i + sides] for i in range(0, count * sides, sides)], shapes)


@pytest.fixture
def reward_params(params: Any) -> Any:
    noise = np.random.default_rng(0)
    head = {"kernel": noise.normal(size=(WIDTH, 1)), "bias": np.array([0.3])}
    return {"model": params, "reward": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), head)}


@pytest.fixture
def completions() -> list[Completion]:
    return [Completion(i, 0, tokens, [], [], "eos") for i, (_, tokens) in enumerate(SEQUENCES)]


def hidden_of(model: Decoder, params: Any, sequence: list[int]) -> np.ndarray:
    tokens = np.array([sequence], np.int32)
    hidden = jax.jit(model.apply)({"params": params}, tokens, np.arange(tokens.size)[None], tokens * 0 + 1)
    return np.asarray(hidden[0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_scores_are_read_at_the_ends_whatever_the_padding(
    model: Decoder, reward_params: Any, layout: Layout, completions: list[Completion]
) -> None:
    prompts = [prompt for prompt, _ in SEQUENCES]
    ends = [np.array(e) for e in ENDS[:-1]] + [np.zeros(0, np.int64)]
    expected = []
    for (prompt, tokens), places in zip(SEQUENCES[:3], ends, strict=False):
        hidden = hidden_of(model, reward_params["model"], [*prompt, *tokens])
        expected.append(hidden[len(prompt) + places] @ reward_params["reward"]["kernel"][:, 0] + 0.3)
    for rows, length in ((2, 7), (7, 40)):  # the last batch is filled up
        found = scorer(model, RowShapes(length, rows, 1, layout))(reward_params, prompts, completions, ends)
        assert found[-1].size == 0
        for one, other in zip(found[:3], expected, strict=True):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.std(np.concatenate(expected)) > 0.1
    assert scorer(model, RowShapes(8, 2, 1, layout))(reward_params, prompts, [], []) == []


def test_few_programs_score_all_lengths(
    model: Decoder, reward_params: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    scores = jax.jit(lambda params, batch: widths.append(batch["tokens"].shape) or batch["tokens"] * 0.0)
    monkeypatch.setattr("dsmath_jax.rl.reward_model.model.jitted_scores", lambda *_: scores)
    score = scorer(model, RowShapes(60, 4, 1, layout))
    for lengths in ([1, 59, 30, 31, 32, 7, 58, 12, 15], [2, 59, 33, 31, 29, 6, 58, 12, 15], [3, 4, 5]):
        completions = [Completion(0, i, [3] * n, [], [], "eos") for i, n in enumerate(lengths)]
        score(reward_params, [[1]], completions, [np.array([len(c.tokens) - 1]) for c in completions])
    assert widths == [(3, 64), (1, 64)]  # traced once each


def test_equal_completions_are_scored_once(
    model: Decoder, reward_params: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score depends on the batch here, as rounding makes it; equal completions are one segment of one batch."""
    batches: list[tuple[np.ndarray, np.ndarray]] = []

    @jax.jit
    def scores(params: Any, batch: Any) -> Any:
        del params
        jax.debug.callback(lambda *pair: batches.append(pair), batch["tokens"], batch["segment_ids"])
        return jnp.sum(batch["tokens"]) + jnp.cumsum(batch["tokens"], axis=1) / 64.0

    monkeypatch.setattr("dsmath_jax.rl.reward_model.model.jitted_scores", lambda *_: scores)
    texts = [[3, 4, 5], [7, 8], [3, 4, 5], [9], [7, 8], [3, 4, 5], [6], [3, 4, 5]]
    prompts = [[1], [1], [1, 3], [1]]  # the third, which has the first token of a completion, is another
    completions = [Completion(i // 2, i % 2, tokens, [], [], "eos") for i, tokens in enumerate(texts)]
    ends = [np.array([0, len(tokens) - 1]) for tokens in texts]
    found = scorer(model, RowShapes(8, 2, 1, layout))(reward_params, prompts, completions, ends)
    jax.effects_barrier()
    asked = [
        tuple(row[ids == segment].tolist())
        for tokens, segment_ids in batches
        for row, ids in zip(np.asarray(tokens), np.asarray(segment_ids), strict=True)
        for segment in range(1, ids.max() + 1)
    ]
    assert sorted(set(asked)) == sorted({(*prompts[c.prompt], *c.tokens) for c in completions})
    assert len(asked) == len(set(asked)) == 6
    for i in (2, 7):
        np.testing.assert_array_equal(found[i], found[0])
    assert not np.array_equal(found[5], found[0])  # the same completion of another prompt


class Lookup:
    """A decoder whose hidden state at a token is a row of its table: an objective's values follow from it alone."""

    def apply(self, variables: Any, tokens: Any, positions: Any, segment_ids: Any) -> Any:
        del segment_ids
        return variables["params"]["embedding"][tokens] * (1 + positions[..., None])


LOOKUP: Any = Lookup()


def lookup_params(scale: float = 1.0) -> Any:
    noise = np.random.default_rng(0)
    head = {"kernel": scale * noise.normal(size=(WIDTH, 1)), "bias": np.array([0.3])}
    return jax.tree.map(jnp.asarray, {"model": {"embedding": noise.normal(size=(12, WIDTH))}, "reward": head})


def logits_of(reward_params: Any, data: dict[str, np.ndarray]) -> np.ndarray:
    embedding = np.asarray(reward_params["model"]["embedding"])
    hidden = embedding[data["tokens"]] * (1 + data["positions"][..., None])
    return hidden @ np.asarray(reward_params["reward"]["kernel"])[:, 0] + np.asarray(reward_params["reward"]["bias"])


def gradient_from(slopes: np.ndarray, reward_params: Any, data: dict[str, np.ndarray]) -> Any:
    """The gradient that these derivatives by the logits `[B,T]` make."""
    kernel, table = np.asarray(reward_params["reward"]["kernel"])[:, 0], np.asarray(reward_params["model"]["embedding"])
    tokens, factors = data["tokens"], 1 + data["positions"]
    by_token = np.zeros(len(table))
    np.add.at(by_token, tokens, slopes * factors)
    head = {"kernel": (by_token @ table)[:, None], "bias": slopes.sum(keepdims=True)[0]}
    return {"model": {"embedding": by_token[:, None] * kernel}, "reward": head}


def assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12), found, expected)


@pytest.mark.parametrize("kind", ["pointwise", "process"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.usefixtures("float64")
def test_cross_entropy_and_its_gradient_in_numpy(kind: str, soft: bool) -> None:
    reward_params, data = lookup_params(0.2), batch(kind, soft=soft)
    chance, labels, weights = sigmoid(logits_of(reward_params, data)), np.float64(data["labels"]), data["weights"]
    losses = -labels * np.log(chance) - (1 - labels) * np.log(1 - chance)
    objective = functools.partial(OBJECTIVES[kind], LOOKUP, batch=data)
    (loss, weight), metrics = objective(reward_params)
    assert float(weight) == sum(len(ends) if kind == "process" else 1 for ends in ENDS)
    assert float(loss) == pytest.approx((losses * weights).sum(), rel=1e-12)
    assert float(metrics["accuracy"]) == (((chance > 0.5) == (labels >= 0.5)) * weights).sum()
    gradient = jax.grad(lambda params: objective(params)[0][0])(reward_params)
    assert_close(gradient, gradient_from((chance - labels) * weights, reward_params, data))


@pytest.mark.usefixtures("float64")
def test_bradley_terry_and_its_gradient_in_numpy() -> None:
    reward_params, data = lookup_params(0.2), batch("pairwise", 3)
    scores, cells = logits_of(reward_params, data), [np.nonzero(data["weights"])[i] for i in range(2)]
    by_segment = {(row, data["segment_ids"][row, cell]): (row, cell) for row, cell in zip(*cells, strict=True)}
    pairs = [(by_segment[row, n], by_segment[row, n + 1]) for row, n in sorted(by_segment) if n % 2]
    for side in pairs.pop():  # a pair that does not count
        data["weights"][side] = 0
    chosen, rejected = (np.array([scores[pair[side]] for pair in pairs]) for side in range(2))
    objective = functools.partial(OBJECTIVES["pairwise"], LOOKUP, batch=data)
    (loss, weight), metrics = objective(reward_params)
    assert float(weight) == 2
    assert float(loss) == pytest.approx(-np.log(sigmoid(chosen - rejected)).sum(), rel=1e-12)
    assert float(metrics["accuracy"]) == 1.5 == (chosen > rejected).sum() + 0.5 * (chosen == rejected).sum()
    slopes = np.zeros_like(scores)
    for pair, slope in zip(pairs, -sigmoid(rejected - chosen), strict=True):
        slopes[pair[0]], slopes[pair[1]] = slope, -slope
    gradient = jax.grad(lambda params: objective(params)[0][0])(reward_params)
    assert_close(gradient, gradient_from(slopes, reward_params, data))
    assert float(gradient["reward"]["bias"][0]) == pytest.approx(0, abs=1e-12)  # only differences of scores count


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.usefixtures("float64")
def test_micro_batches_never_change_the_step(layout: Layout, kind: str) -> None:
    """Rows have one to three steps: a mean of means would differ."""
    reward_params, count, found = lookup_params(0.2), 6 // SIDES[kind], []
    optimizer = optax.sgd(1.0)
    for parts in (1, 3):
        data = batch(kind, count, parts=parts)
        micro_batches = RowShapes(8 * SIDES[kind], count, parts, layout).num_micro_batches(len(data["tokens"]))
        assert (micro_batches > 1) == (parts > 1)
        state = TrainState(jax.tree.map(jnp.copy, reward_params), optimizer.init(reward_params))
        step = make_train_step(OBJECTIVES[kind], LOOKUP, optimizer, layout, state, micro_batches)
        state, scalars = step(state, data)
        found.append((state.params, scalars["loss"], scalars["accuracy"]))
    assert_close(*found)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_new_head_knows_nothing(kind: str) -> None:
    reward_params = with_reward_head(lookup_params()["model"], WIDTH)
    (loss, weight), _ = OBJECTIVES[kind](LOOKUP, reward_params, batch(kind, 6 // SIDES[kind]))
    assert float(loss / weight) == pytest.approx(np.log(2))


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("scale", [-1e5, 1e5])
def test_logits_of_any_size_leave_loss_and_gradient_finite(kind: str, scale: float) -> None:
    reward_params, data = lookup_params(scale), batch(kind, 6 // SIDES[kind])
    found = jax.value_and_grad(lambda params: OBJECTIVES[kind](LOOKUP, params, data)[0][0])(reward_params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(found))


def test_a_saved_model_scores_as_before(
    model: Decoder, reward_params: Any, layout: Layout, tmp_path: Path, completions: list[Completion]
) -> None:
    reward_params = jax.device_put(reward_params, layout.param_shardings(reward_params))
    write_config(tmp_path, model.config)
    save(tmp_path / "params", reward_params)
    again, params = read(tmp_path, layout)
    jax.tree.map(np.testing.assert_array_equal, params, reward_params)
    asked = ([prompt for prompt, _ in SEQUENCES], completions, [np.array(ends) for ends in ENDS])
    for one, other in zip(
        scorer(again, RowShapes(8, 6, 1, layout))(params, *asked),
        scorer(model, RowShapes(8, 6, 1, layout))(reward_params, *asked),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_score_sees_no_later_token(model: Decoder, reward_params: Any) -> None:
    data = batch("process")
    other = data | {"tokens": np.where(np.arange(8) > 3, 11, data["tokens"])}
    before, after = (np.asarray(jax.jit(lambda b: token_scores(model, reward_params, b))(b)) for b in (data, other))
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)


@pytest.mark.parametrize(
    ("found", "labels", "value"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], 0.75),
        ([1.0, 1.0, 0.0], [1, 0, 0], 0.75),
    ],
)
def test_auc_of_known_scores(found: list[float], labels: list[int], value: float) -> None:
    assert auc(np.array(found), np.array(labels, bool)) == value


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(cases: list[tuple[int, bool]]) -> None:
    found, labels = (np.array(column) for column in zip(*cases, strict=True))
    correct, incorrect = found[labels], found[~labels]
    if correct.size and incorrect.size:
        pairs = (correct[:, None] > incorrect) + 0.5 * (correct[:, None] == incorrect)
        assert auc(found, labels) == pytest.approx(pairs.mean())
