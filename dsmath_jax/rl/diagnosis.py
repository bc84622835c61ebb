"""Reasons why an RL run does not learn, read from its metrics (docs/rl.md, "When it does not learn").

`Diagnosis.add` takes the row of an update and returns the findings that are new. It depends on the rows alone: a
resumed run that adds the earlier rows again has the same findings as an uninterrupted one.
"""

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dsmath_jax.data import chat as chats
from dsmath_jax.data import chat_template
from dsmath_jax.data.chat import Chat
from dsmath_jax.formatting import number, percent
from dsmath_jax.models.quantization import INT8
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.dtypes import DecodeDtypes

Row = Mapping[str, float]  # of metrics.jsonl

# Windows. Single steps of RL are noisy: everything but the state of one rollout is judged over several.
RECENT_UPDATES = 5  # their median or mean is the current value
FIRST_UPDATES = 10  # the start of the run that its entropy is compared with
EARLIER_UPDATES = 50  # before the recent ones: the running median of KL and gradient norm
MIN_EARLIER_UPDATES = 10  # fewer have no reliable median
ROLLOUTS = 5  # 80 prompts with the default of 16 a rollout: by then a few groups of a healthy run have had a spread
QUIET_UPDATES = 10  # a finding that was not seen for as long has gone away, and is reported again if it returns
UP_TO_ONE = {"correct", "format", "think_format"}  # reward functions whose largest value is 1

# Thresholds. "Toy run" is configs/tiny.py, which learns: 220 updates, whose metrics are in brackets.
TRUNCATED = 0.9  # share of a rollout's completions; the rest is too little to learn from (0 to 0.03)
ENTROPY_DROP = 0.1  # of the first updates' entropy; in runs that learn a third or more of it is left (0.09 to 0.04)
ENTROPY_FLOOR = 0.01  # nats a token: 99.9 % of the probability is on one token, and groups hardly differ (0.04)
JUMP = 10.0  # times the running median; medians of 5 updates vary by a factor of 3 (KL) and 2 (gradient norm)
KL_FLOOR = 0.2  # nats a token; below, a KL that grows from 0, as it always does, is no explosion (0.14 at most)
KL_LIMIT = 1.0  # nats a token: the policy's own tokens are e times less likely under the reference model
GRAD_NORM_LIMIT = 100.0  # times clip_norm; losses that are means over tokens have norms of 0.1 to 10 (0.07 to 0.95)
# Sampler to trainer, nats a token, by the dtype that rounds most: float32 has 1e-6, bfloat16 0.02 (a 0.5 B model), int8
# 0.04 (a model of 0.26 M parameters, benchmarks/quantization.py).
MAX_LOGPROB_DIFF = {"float64": 1e-3, "float32": 1e-3, "bfloat16": 0.1, "int8": 0.2}


class Finding(NamedTuple):
    """A reason why the run may not learn.

    Attributes:
      kind: its name in docs/rl.md.
      message: a sentence with numbers, and what to do.
      normal: whether it only explains a metric that looks wrong.
    """

    kind: str
    message: str
    normal: bool = False


class History:
    """What the checks need of the rows so far.

    Attributes:
      first, recent, earlier: rows of the first updates, the last ones and those before these; skipped updates, whose
        metrics are 0, are left out.
      rollouts: rows of the first updates of the last rollouts.
      num_rollouts: of the run.
      min_truncated: the smallest `frac_truncated` of all rollouts of the run.
    """

    def __init__(self, steps_per_rollout: int):
        self._steps_per_rollout = steps_per_rollout
        self._updates: deque[Row] = deque(maxlen=EARLIER_UPDATES + RECENT_UPDATES)
        self.first: list[Row] = []
        self.rollouts: deque[Row] = deque(maxlen=ROLLOUTS)
        self.num_rollouts, self.min_truncated = 0, 1.0

    def add(self, row: Row) -> None:
        """Adds the row of the next update."""
        if not row.get("step_skipped"):
            self._updates.append(row)
            if len(self.first) < FIRST_UPDATES:
                self.first.append(row)
        if row["step"] % self._steps_per_rollout == 0 and "frac_truncated" in row:
            self.rollouts.append(row)
            self.num_rollouts += 1
            self.min_truncated = min(self.min_truncated, row["frac_truncated"])

    @property
    def recent(self) -> list[Row]:
        return list(self._updates)[-RECENT_UPDATES:]

    @property
    def earlier(self) -> list[Row]:
        return list(self._updates)[:-RECENT_UPDATES]


class Diagnosis:
    """Finds reasons why a run does not learn, each once until it has gone away."""

    def __init__(self, settings: RLSettings, logprob_dtype: str, at_start: Sequence[Finding] = ()):
        """
        Args:
          settings: of the run.
          logprob_dtype: the dtype that log-probabilities are rounded to most, a key of `MAX_LOGPROB_DIFF`.
          at_start: findings that are known before the first update.
        """
        self._settings, self._dtype, self._at_start = settings, logprob_dtype, at_start
        self._history = History(settings.steps_per_rollout)
        self._seen_at: dict[str, int] = {}
        self._count = 0

    def add(self, row: Row) -> list[Finding]:
        """Adds the row of the next update; returns the findings that are new."""
        self._history.add(row)
        found = list(self._at_start) if self._count == 0 else []
        found += diagnose(self._history, self._settings, self._dtype)
        new = [f for f in found if self._count - self._seen_at.get(f.kind, -QUIET_UPDATES - 1) > QUIET_UPDATES]
        self._seen_at |= dict.fromkeys((finding.kind for finding in found), self._count)
        self._count += 1
        return new


def diagnose(history: History, settings: RLSettings, logprob_dtype: str) -> list[Finding]:
    """Returns all findings at the newest row; the arguments are those of `Diagnosis`."""
    found = [check(history, settings) for check in CHECKS]
    if not settings.rollouts_ahead or settings.computes_old_logprobs:  # else it is of another policy than the sampler's
        found.append(sampler_differs(history, MAX_LOGPROB_DIFF[logprob_dtype], logprob_dtype))
    return [finding for finding in found if finding]


# --- completions ---


def all_truncated(history: History, settings: RLSettings) -> Finding | None:
    """Nearly all completions of the newest rollout are cut at the length limit."""
    if not history.rollouts or history.rollouts[-1]["frac_truncated"] < TRUNCATED:
        return None
    row, limit = history.rollouts[-1], f"rl.max_new_tokens={settings.max_new_tokens}"
    if settings.environment:
        limit += f" (replies included) or rl.environment.max_turns={settings.environment.max_turns}"
    return Finding(
        "all_truncated",
        f"{percent(row['frac_truncated'])} of the {_sampled(row, settings)} completions are cut at {limit} before they "
        "end, so that few can state an answer: raise the limit, or train SFT on solutions that end in EOS.",
    )


def no_eos(history: History, settings: RLSettings) -> Finding | None:
    """No completion of the run has ended by itself."""
    if history.num_rollouts < ROLLOUTS or history.min_truncated < 1:
        return None
    return Finding(
        "no_eos",
        f"None of the completions of this run, in {history.num_rollouts} rollouts, has ended by EOS: "
        "the model may not know the token that ends its turn; check that the SFT data end in it, and that "
        "config.chat.template is the one that the model was trained with.",
    )


def _sampled(row: Row, settings: RLSettings) -> int:
    """Returns how many completions were sampled for a rollout."""
    return round(row.get("num_gen_batches", 1.0)) * settings.samples_per_step


# --- rewards ---


def no_reward(history: History, settings: RLSettings) -> Finding | None:
    """No completion of the newest rollout has a reward."""
    if not history.rollouts or "reward" in history.rollouts[-1]:
        return None
    row = history.rollouts[-1]
    errors, abstained = (row.get(f"reward_{name}", 0.0) for name in ("errors", "abstained"))
    return Finding(
        "no_reward",
        f"None of the {_sampled(row, settings)} completions has a reward: a reward function failed on {errors:.0f} "
        f"of them, and all abstained on {abstained:.0f}; see the reasons in the log, and call rl.reward_fns, or "
        "rl.step_rewards, on the sample.",
    )


def equal_rewards(history: History, settings: RLSettings) -> Finding | None:
    """No group of the last rollouts has different rewards: all are correct, all are incorrect, or neither."""
    rows = history.rollouts
    if len(rows) < ROLLOUTS or any(row["frac_reward_zero_std"] < 1 or "reward" not in row for row in rows):
        return None
    rewards, names = [row["reward"] for row in rows], [name for name, _ in settings.reward_fns]
    kind, cause = "equal_rewards", f"the mean reward is {number(rewards[-1])}; use rewards that tell completions apart"
    if settings.reward_source == "rule" and all(row["reward_std"] < 1e-6 for row in rows):
        top = sum(max(weight, 0.0) for _, weight in settings.reward_fns)
        if not any(rewards) and "correct" in names:
            kind, cause = "all_incorrect", (
                "all are incorrect, with a reward of 0; take easier questions or a better rl.init, and compare the "
                "answer in the sample with the record's"
            )  # fmt: skip
        elif not any(rewards):
            kind = "rewards_zero"
            cause = f"{' and '.join(names)} returned 0 for every completion; call rl.reward_fns on the sample"
        elif set(names) <= UP_TO_ONE and min(rewards) > top - 1e-6:
            kind, cause = "all_correct", f"all are correct, with a reward of {number(top)}; take harder questions"
    groups = sum(_sampled(row, settings) for row in rows) // settings.group_size
    return Finding(
        kind,
        f"None of the {groups:,} groups of {settings.group_size} completions in the last {len(rows)} rollouts has "
        f"different rewards, so that all advantages are 0: {cause}.",
    )


# --- the policy ---


def entropy_collapsed(history: History, settings: RLSettings) -> Finding | None:
    """The entropy of a policy that is sampled from is a fraction of the first updates', or near 0."""
    recent, first = _values(history.recent, "entropy"), _values(history.first, "entropy")
    if len(recent) < RECENT_UPDATES or not history.rollouts:
        return None
    now, start = statistics.fmean(recent), statistics.fmean(first)
    if now >= ENTROPY_FLOOR and (len(first) < FIRST_UPDATES or now >= ENTROPY_DROP * start):
        return None
    return Finding(
        "entropy_collapsed",
        f"The policy's entropy is {number(now)} nats a token over the last {len(recent)} updates, "
        f"{number(start)} over the first {len(first)}: completions of a prompt hardly differ; lower rl.peak_lr, or "
        f"raise rl.temperature={settings.temperature:g}, rl.kl_coef or rl.clip_eps_high.",
    )


def kl_exploding(history: History, settings: RLSettings) -> Finding | None:
    """The KL to the reference model is large, or many times its running median."""
    jump = _jump(history, "kl", KL_FLOOR, KL_LIMIT)
    if jump is None:
        return None
    return Finding(
        "kl_exploding",
        f"The KL to the reference model {jump} (nats a token): the policy leaves what it knows; lower "
        f"rl.peak_lr={settings.peak_lr:g}, or raise rl.kl_coef.",
    )


def grad_norm_exploding(history: History, settings: RLSettings) -> Finding | None:
    """The norm of the gradient before clipping is large, or many times its running median."""
    jump = _jump(history, "grad_norm", settings.clip_norm, GRAD_NORM_LIMIT * settings.clip_norm)
    if jump is None:
        return None
    return Finding(
        "grad_norm_exploding",
        f"The gradient norm {jump}, before it is clipped to rl.clip_norm={settings.clip_norm:g}: lower "
        f"rl.peak_lr={settings.peak_lr:g}, give rl.warmup_steps, and look for rewards of very different sizes.",
    )


def sampler_differs(history: History, limit: float, dtype: str) -> Finding | None:
    """Sampler and trainer disagree about the sampled tokens by more than rounding, before an update on them."""
    row = history.rollouts[-1] if history.rollouts else {}
    if row.get("step_skipped") or not row.get("sampler_logprob_diff", 0.0) > limit:
        return None
    return Finding(
        "sampler_differs",
        f"Sampler and trainer differ by {number(row['sampler_logprob_diff'])} nats a token on the same tokens, more "
        f"than the rounding of {dtype} explains ({limit:g}): the policy is not trained on what it samples; check the "
        "model with `dsmath doctor`, or set rl.cache_dtype='' and rl.decode_weight_dtype=''.",
    )


def clip_shares_zero(history: History, settings: RLSettings) -> Finding | None:
    """The shares of clipped tokens are 0 because each rollout is used once; normal."""
    row = history.recent[-1] if history.recent else {}
    once = settings.steps_per_rollout == 1 and settings.old_logprobs == "trainer" and not settings.rollouts_ahead
    if not once or row.get("clip_low") != 0 or row.get("clip_high") != 0:
        return None
    return Finding(
        "clip_shares_zero",
        "clip_low and clip_high are 0, as they should be: with rl.num_updates=1 the ratio to the old policy is 1.",
        normal=True,
    )


CHECKS: tuple[Callable[[History, RLSettings], Finding | None], ...] = (
    all_truncated, no_eos, no_reward, equal_rewards, entropy_collapsed, kl_exploding, grad_norm_exploding,
    clip_shares_zero,
)  # fmt: skip


def other_template(chat: Chat, folder: Path) -> list[Finding]:
    """Compares the run's prompts with those that a model in Hugging Face's format was trained with, if it says so.

    Models of stages need no finding: `chats.check_same` refuses other settings than theirs.

    Args:
      chat: of the run.
      folder: of the model that the policy starts from.
    """
    stored = chats.load(folder, chat.tokenizer)  # written by `dsmath convert export`
    trained = stored.settings if stored else {"template": chat_template.stored(folder)}
    names = [name for name, value in trained.items() if value != chat.settings[name] and (value or name != "template")]
    if not names:
        return []
    fields = " and ".join(f"config.chat.{name}" for name in names)
    return [
        Finding(
            "other_template",
            f"{fields} of this run differ{'s' if len(names) == 1 else ''} from that of the model in {folder}: it gets "
            "other prompts than it was trained on, and may not end its turns; take the model's.",
        )
    ]


def logprob_dtype(compute_dtype: str, dtypes: DecodeDtypes, backend: str) -> str:
    """Returns the dtype that log-probabilities are rounded to most, a key of `MAX_LOGPROB_DIFF`.

    GPUs and TPUs round the inputs of float32 products by default, TPUs to bfloat16.
    """
    if INT8 in (dtypes.cache_dtype, dtypes.decode_weight_dtype):
        return INT8
    rounded = backend != "cpu" and compute_dtype == "float32"
    return "bfloat16" if rounded or "bfloat16" in (compute_dtype, dtypes.cache_dtype) else compute_dtype


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _jump(history: History, name: str, floor: float, limit: float) -> str | None:
    """Says that the recent median exceeds `limit`, or `floor` and `JUMP` times the earlier median; None if neither."""
    recent, earlier = _values(history.recent, name), _values(history.earlier, name)
    if len(recent) < RECENT_UPDATES:
        return None
    now, before = statistics.median(recent), statistics.median(earlier or recent)
    if len(earlier) >= MIN_EARLIER_UPDATES and now > max(floor, JUMP * before):
        return f"is {number(now)} over the last {len(recent)} updates, {number(before)} over the {len(earlier)} before"
    return f"is {number(now)} over the last {len(recent)} updates" if now > limit else None
