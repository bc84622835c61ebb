"""The paper's unified view (Eq. 5, Table 10, appendix A.1), in float64.

For every method, the gradient of its loss, negated, is (1/|o|) sum_t GC grad log pi(o_t), with the advantages of its
algorithm held fixed: for the paper's methods at the first update on a rollout, as the table has it, and for every
method with a ratio also off policy. The coefficients below are written from the sources, the rewards are computed by
hand.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.rl import algorithms
from dsmath_jax.rl.advantages import ScoredRollout, Scores, outcome_scores
from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood, gradient_coefficients
from dsmath_jax.rl.methods import METHODS, method_of

from .free_policy import (
    GROUP,
    LENGTH,
    LENGTHS,
    STARTS,
    TEMPERATURE,
    WIDTH,
    free_batch,
    free_pairs,
    free_params,
    mean_loss,
    policy,
)

BETA, GAMMA, LAM = 0.3, 0.9, 0.8
CORRECT = [1.0, 0.0, 0.0, 1.0]
SCORES = [0.3, -1.2, 2.0, 0.4]  # of an outcome reward model
STEP_ENDS = [[0], [1, 2, 4], [0, 2], [1]]  # completions of 1, 5, 3 and 2 tokens
STEP_SCORES = [[0.5], [1.0, -0.5, 0.2], [-1.0, 0.1], [0.9]]
DOCS = Path(__file__).parents[2] / "docs" / "rl.md"
TESTED: dict[str, str] = {}  # the coefficients of the tests below, by method
pytestmark = pytest.mark.usefixtures("float64")


def of_methods(coefficient: str, *names: str) -> pytest.MarkDecorator:
    """Runs a test for some methods: `algorithm` is the class behind each, `coefficient` what the test expects."""
    TESTED.update(dict.fromkeys(names, coefficient))
    return pytest.mark.parametrize("algorithm", [METHODS[name].algorithm for name in names], ids=names)


@pytest.fixture(autouse=True)
def _own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/rl.md as a module."""
    (code,) = re.findall(r"```python\n(# own_method.py.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 20
    (tmp_path / "own_method.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_method", raising=False)


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    return free_params()


@pytest.fixture
def batch(params: dict) -> dict[str, np.ndarray]:
    """The policy's own samples."""
    plain = free_batch()
    logprobs, _, _ = policy(params, plain)
    return plain | {"old_logprobs": logprobs * plain["loss_weights"], "sampler_logprobs": logprobs}


def laid_out(per_token: list[np.ndarray]) -> np.ndarray:
    """`[B,T]` of one array per completion."""
    rows = np.zeros(free_batch()["loss_weights"].shape)
    for i, tokens in enumerate(per_token):
        rows[i, STARTS[i] : STARTS[i] + LENGTHS[i]] = tokens
    return rows


def completions(per_place: np.ndarray) -> list[np.ndarray]:
    """One array per completion of `[B,T]`."""
    return [per_place[i, STARTS[i] : STARTS[i] + LENGTHS[i]] for i in range(GROUP)]


def check(algorithm: Algorithm, params: dict, batch: dict, coefficients: list[np.ndarray], rows: int = GROUP) -> None:
    """Compares the gradient with sum_t GC grad log pi(o_t) / |o| over `rows`."""
    _, slopes, _ = policy(params, batch)
    shares = np.array(LENGTHS)[:, None] * rows
    expected = laid_out(coefficients)[..., None] * slopes / shares[..., None]
    _, gradient, _ = mean_loss(algorithm, params, batch)
    np.testing.assert_allclose(-gradient["hidden"], expected, atol=1e-13)
    assert np.abs(expected).max() > 0.01


def kl_term(params: dict, batch: dict) -> list[np.ndarray]:
    """beta (pi_ref / pi - 1)."""
    logprobs, _, _ = policy(params, batch)
    return completions(BETA * (np.exp(batch["ref_logprobs"] - logprobs) - 1))


@of_methods("1", "sft")
def test_sft(algorithm: type[Likelihood], params: dict, batch: dict) -> None:
    ones = [np.ones(n) for n in LENGTHS]
    check(algorithm(temperature=TEMPERATURE), params, batch | {"advantages": batch["loss_weights"]}, ones)


@of_methods("1 if correct, else 0", "rft", "online_rft")
@pytest.mark.parametrize("normalize_by_correct", [False, True])
def test_rft_and_online_rft(algorithm: type[Likelihood], params: dict, batch: dict, normalize_by_correct: bool) -> None:
    """1 where the completion is correct, else 0; the mean is over all completions or over the correct ones."""
    likelihood = algorithm(temperature=TEMPERATURE, normalize_by_correct=normalize_by_correct)
    advantages = laid_out(likelihood.advantages(ScoredRollout(outcome_scores(CORRECT, LENGTHS), list(LENGTHS), GROUP)))
    coefficients = [np.full(n, float(reward == 1.0)) for n, reward in zip(LENGTHS, CORRECT, strict=True)]
    rows = 2 if normalize_by_correct else GROUP
    check(likelihood, params, batch | {"advantages": advantages}, coefficients, rows)


@of_methods("+- beta sigma(beta Delta- - beta Delta+)", "dpo")
@pytest.mark.parametrize("length_normalized", [True, False])
def test_dpo(algorithm: type[DPO], length_normalized: bool) -> None:
    """Per token: divided by the length in the paper's form, not divided in the original one."""
    params, pairs = free_params(length=2 * LENGTH), free_pairs()
    logprobs, slopes, _ = policy(params, pairs)
    mask = pairs["loss_weights"]
    log_ratios, deltas, shares = (logprobs - pairs["ref_logprobs"]) * mask, [], []
    for part in (slice(0, LENGTH), slice(LENGTH, 2 * LENGTH)):
        lengths = mask[:, part].sum(axis=1) if length_normalized else np.ones(GROUP)
        deltas.append(log_ratios[:, part].sum(axis=1) / lengths)
        shares.append(mask[:, part] / lengths[:, None])
    doubt = 1 / (1 + np.exp(BETA * (deltas[0] - deltas[1])))
    coefficients = BETA * doubt[:, None] * np.concatenate([shares[0], -shares[1]], axis=1)
    expected = coefficients[..., None] * slopes / GROUP
    dpo = algorithm(beta=BETA, length_normalized=length_normalized, temperature=TEMPERATURE)
    _, gradient, _ = mean_loss(dpo, params, pairs)
    np.testing.assert_allclose(-gradient["hidden"], expected, atol=1e-13)
    assert np.abs(expected).max() > 0.001


@of_methods("r A [clip], A_t by GAE", "ppo")
def test_ppo(algorithm: type[PPO], params: dict, batch: dict) -> None:
    """GAE is over the rewards of Eq. 2."""
    ppo = algorithm(gamma=GAMMA, lam=LAM, kl_coef=BETA, temperature=TEMPERATURE)
    logprobs, references = completions(batch["old_logprobs"]), completions(batch["ref_logprobs"])
    values = completions(batch["old_values"])
    rollout = ScoredRollout(outcome_scores(SCORES, LENGTHS), list(LENGTHS), GROUP, logprobs, references, values)
    coefficients = []
    for ours, theirs, value, score in zip(logprobs, references, values, SCORES, strict=True):
        n = len(ours)
        reward = [-BETA * (ours[t] - theirs[t]) + (score if t == n - 1 else 0.0) for t in range(n)]
        surprise = [reward[t] + (GAMMA * value[t + 1] if t + 1 < n else 0.0) - value[t] for t in range(n)]
        coefficients.append(
            np.array([sum((GAMMA * LAM) ** (k - t) * surprise[k] for k in range(t, n)) for t in range(n)])
        )
    value_params = {"model": free_params(5), "reward": {"kernel": np.ones((WIDTH, 1)), "bias": np.zeros(1)}}
    whole = batch | {"advantages": laid_out(ppo.advantages(rollout))}
    _, gradient, _ = mean_loss(ppo, {"policy": params, "value": value_params}, whole)
    _, alone, _ = mean_loss(GRPO(kl_coef=0.0, temperature=TEMPERATURE), params, whole)
    np.testing.assert_allclose(gradient["policy"]["hidden"], alone["hidden"], atol=1e-15)
    check(GRPO(kl_coef=0.0, temperature=TEMPERATURE), params, whole, coefficients)


@of_methods("r A [clip] + beta (pi_ref / pi - 1)", "grpo_rule", "grpo_os", "grpo_iterative")
def test_grpo_with_outcome_supervision(algorithm: type[GRPO], params: dict, batch: dict) -> None:
    """A_it = (r_i - mean) / std."""
    grpo = algorithm(kl_coef=BETA, temperature=TEMPERATURE)
    advantages = laid_out(grpo.advantages(ScoredRollout(outcome_scores(SCORES, LENGTHS), list(LENGTHS), GROUP)))
    mean = sum(SCORES) / 4
    deviation = np.sqrt(sum((r - mean) ** 2 for r in SCORES) / 3) + 1e-6
    coefficients = [(r - mean) / deviation + k for r, k in zip(SCORES, kl_term(params, batch), strict=True)]
    check(grpo, params, batch | {"advantages": advantages}, coefficients)


@of_methods("r A [clip] + beta (pi_ref / pi - 1)", "grpo_ps")
def test_grpo_with_process_supervision(algorithm: type[GRPO], params: dict, batch: dict) -> None:
    """A_it is the sum of the normalized rewards of the steps that end at or after the token."""
    grpo = algorithm(kl_coef=BETA, temperature=TEMPERATURE)
    scores = Scores(list(map(np.array, STEP_ENDS)), list(map(np.array, STEP_SCORES)))
    advantages = laid_out(grpo.advantages(ScoredRollout(scores, list(LENGTHS), GROUP)))
    pool = [r for rewards in STEP_SCORES for r in rewards]
    mean = sum(pool) / len(pool)
    deviation = np.sqrt(sum((r - mean) ** 2 for r in pool) / (len(pool) - 1)) + 1e-6
    coefficients = []
    for n, ends, rewards, kl in zip(LENGTHS, STEP_ENDS, STEP_SCORES, kl_term(params, batch), strict=True):
        later = [sum((r - mean) / deviation for e, r in zip(ends, rewards, strict=True) if e >= t) for t in range(n)]
        coefficients.append(np.array(later) + kl)
    check(grpo, params, batch | {"advantages": advantages}, coefficients)


# --- off policy: ratios inside, above and below the bounds, with both signs of the advantage ---


def clipped(ratio: np.ndarray, advantages: np.ndarray, low: float, high: float) -> np.ndarray:
    """r A, but 0 where a positive advantage has a ratio above the bound, or a negative one a ratio below."""
    stopped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    return np.where(stopped, 0.0, ratio * advantages)


def sequence_ratio(ratio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    lengths = mask.sum(axis=1, keepdims=True)
    return np.exp((np.log(ratio) * mask).sum(axis=1, keepdims=True) / lengths) * np.ones_like(ratio)


PAPER_CLIP, DAPO_CLIP, GSPO_CLIP = (0.8, 1.2), (0.8, 1.28), (1 - 3e-4, 1 + 4e-4)
# Of the bounds and the rest of a method's defaults, its coefficient at (ratio, advantage, pi_ref / pi, mask), and the
# weight of a token, times the number of completions or tokens.
BY_COMPLETION, BY_TOKEN, BY_LIMIT, BY_SUM = (
    lambda mask, limit: mask / mask.sum(axis=1, keepdims=True) / len(mask),
    lambda mask, limit: mask / mask.sum(),
    lambda mask, limit: mask / limit / len(mask),
    lambda mask, limit: mask / len(mask),
)
OFF_POLICY = {
    name: (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP) + beta * (ref - 1), BY_COMPLETION, 0.04)
    for name in ("grpo_rule", "grpo_os", "grpo_ps", "grpo_iterative")
} | {
    "ppo": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_COMPLETION, 0.04),
    "dr_grpo": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_LIMIT, 0.0),
    "dapo": (lambda r, a, ref, mask, beta: clipped(r, a, *DAPO_CLIP), BY_TOKEN, 0.0),
    "gspo": (lambda r, a, ref, mask, beta: clipped(sequence_ratio(r, mask), a, *GSPO_CLIP), BY_COMPLETION, 0.0),
    "cispo": (lambda r, a, ref, mask, beta: np.minimum(r, 5.0) * a, BY_TOKEN, 0.0),
    "rloo": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_SUM, 0.05),
    "reinforce_pp": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_TOKEN, 0.01),
    "reinforce_pp_baseline": (
        lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP) + beta * np.log(ref), BY_TOKEN, 0.01,
    ),
    "raft_pp": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_COMPLETION, 0.0),
    "reinforce_rej": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_COMPLETION, 0.0),
    "distill": (lambda r, a, ref, mask, beta: clipped(r, a, *PAPER_CLIP), BY_COMPLETION, 0.0),
    # The example of docs/rl.md.
    "own_method:SOFT_GATE": (
        lambda r, a, ref, mask, beta: 4 * sigmoid(r - 1) * (1 - sigmoid(r - 1)) * r * a, BY_TOKEN, 0.0,
    ),
}  # fmt: skip
RATIOS = np.exp([[-0.9, 0.0, 0.1, 0.3], [1.8, -0.1, -0.3, 0.2], [2e-4, -2e-4, 3e-4, -4e-4]])  # cispo's bound is 5
LIMIT = 12


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy(name: str, sign: float) -> None:
    coefficient, weights, beta = OFF_POLICY[name]
    algorithm = method_of(name).algorithm(**({} if name == "ppo" else {"max_new_tokens": LIMIT}))
    assert getattr(algorithm, "kl_coef", 0.0) == beta
    mask = np.ones(RATIOS.shape)
    mask[1, 3] = mask[2, 2:] = 0  # completions of 4, 3 and 2 tokens
    noise = np.random.default_rng(3)
    logprobs, far = -noise.exponential(1.5, mask.shape), noise.normal(size=mask.shape)
    advantages = sign * noise.exponential(1.0, (3, 1)) * mask
    batch = {
        "loss_weights": mask, "advantages": advantages, "old_logprobs": logprobs - np.log(RATIOS),
        "ref_logprobs": logprobs + far, "segment_ids": np.ones(mask.shape, int),
    }  # fmt: skip
    if not beta:
        del batch["ref_logprobs"]
    (_, weight), _ = algorithm.policy_objective(logprobs, np.zeros_like(logprobs), batch)
    expected = coefficient(RATIOS, advantages, np.exp(far), mask, beta) * weights(mask, LIMIT)
    found = gradient_coefficients(algorithm, logprobs, batch) / weight
    np.testing.assert_allclose(found, expected * mask, atol=1e-13)
    assert np.abs(expected).max() > 1e-3


def test_every_method_with_a_ratio_is_tested_off_policy() -> None:
    clipped_methods = {name for name, method in METHODS.items() if issubclass(method.algorithm, GRPO | PPO)}
    assert clipped_methods == {name for name in OFF_POLICY if ":" not in name}


def test_every_method_has_the_coefficient_that_is_tested() -> None:
    assert all(method.coefficient for method in METHODS.values())
    paper = {name: method.coefficient for name, method in METHODS.items() if name in TESTED}
    assert paper == TESTED
    assert set(METHODS) == {*TESTED, *OFF_POLICY} - {"own_method:SOFT_GATE"}


def test_every_algorithm_is_tested() -> None:
    classes = [x for x in vars(algorithms).values() if isinstance(x, type) and issubclass(x, Algorithm)]
    complete = {cls for cls in classes if cls is not Algorithm and vars(cls).keys() & {"objective", "policy_objective"}}
    assert complete == {Likelihood, DPO, PPO, GRPO}
    assert complete == {METHODS[name].algorithm for name in TESTED}
