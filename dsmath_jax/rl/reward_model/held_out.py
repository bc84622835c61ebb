"""Metrics of a reward model on held-out problems."""

from collections.abc import Callable, Sequence

import numpy as np

from dsmath_jax.rl.reward_model.model import ScoreRows, auc
from dsmath_jax.rl.reward_model.rows import Example, Rows
from dsmath_jax.sampling.completions import Completion

BATCHES_PER_CALL = 64  # batches of rows that are read, sorted by length and scored together

# A completion's score from its steps' probabilities of being correct.
COMPLETION_SCORES: dict[str, Callable[[np.ndarray], float]] = {
    "last": lambda steps: float(steps[-1]),
    "mean": lambda steps: float(steps.mean()),
    "min": lambda steps: float(steps.min()),
}


def held_out_metrics(kind: str, rows: Rows, examples: Sequence[Example], score: ScoreRows, batch_size: int) -> dict:
    """Computes the metrics of a reward model of this kind on the rows of the examples, for `summary.json`.

    Returns:
      accuracy, auc, n, majority_class (the accuracy of always predicting the more frequent label). "pointwise": of
      completions. "process": of steps; `last_auc`, `mean_auc` and `min_auc` are of completions by the score of their
      last step and by the mean and the minimum of their steps' probabilities, None where all completions are correct or
      all incorrect. "pairwise": accuracy, n and majority_class are of the pairs of a correct and an incorrect
      completion of the same problem (a tie counts half), auc of all their completions.
    """
    numbers = [number for example in examples for side in example for number in side]
    scores_by_row, labels = _score_rows(rows, numbers, score, BATCHES_PER_CALL * batch_size)
    scores, correct = np.concatenate(scores_by_row), np.concatenate(labels)
    summary = {"kind": kind, "accuracy": float(np.mean((scores > 0) == correct)), "auc": auc(scores, correct)}
    summary |= {"n": len(correct), "majority_class": float(max(correct.mean(), 1 - correct.mean()))}
    if kind == "pairwise":
        last = dict(zip(numbers, scores.tolist(), strict=True))
        pairs = [tuple(np.array([last[i] for i in side]) for side in example) for example in examples]
        summary |= _pairwise_accuracy(pairs)
    if kind == "process":
        completions = np.array([steps[-1] for steps in labels])
        for name, of_steps in COMPLETION_SCORES.items():
            whole = np.array([of_steps(_sigmoid(steps)) for steps in scores_by_row])
            summary[f"{name}_auc"] = auc(whole, completions) if len(set(completions.tolist())) > 1 else None
    return summary


def _pairwise_accuracy(examples: Sequence[tuple[np.ndarray, ...]]) -> dict:
    """Returns the accuracy over all pairs of a correct and an incorrect completion of the same problem."""
    pairs = [len(good) * len(bad) for good, bad in examples]
    shares = [auc(np.concatenate([good, bad]), np.arange(len(good) + len(bad)) < len(good)) for good, bad in examples]
    return {"accuracy": float(np.average(shares, weights=pairs)), "n": sum(pairs), "majority_class": 0.5}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _score_rows(
    rows: Rows, numbers: Sequence[int], score: ScoreRows, at_a_time: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the scores at each row's ends, and whether these are correct."""
    scores: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for start in range(0, len(numbers), at_a_time):
        part = [rows[number] for number in numbers[start : start + at_a_time]]
        completions = [Completion(i, 0, row["completion"], [], [], "eos") for i, row in enumerate(part)]
        scores += score([row["prompt"] for row in part], completions, [np.array(row["ends"]) for row in part])
        labels += [np.array(row["labels"]) >= 0.5 for row in part]
    return scores, labels
