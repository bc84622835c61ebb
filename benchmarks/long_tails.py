"""How many slots are idle while completions of mixed lengths are sampled, and what hides that time.

    python -m benchmarks.long_tails --json=long_tails.json

The sampler's own `Scheduler` assigns samples to slots; their lengths are drawn in place of a model, so that a schedule
takes seconds on one CPU core. Lengths are lognormal and cut at LIMIT tokens; half of the variance of their logarithms
is between prompts. A decode step computes a token in each row of the batch, whether its slot is idle or not.

- without refill: as many completions as there are slots are decoded together, to the longest of them
- refill: a slot takes the next sample of its prompt, a prompt slot the next prompt
- compaction: when no sample waits, the remaining completions move to fewer slots (`Scheduler.compact`)
- oversample: more samples of a prompt are started than are wanted, and the last to end are dropped

The second table has the time of a rollout in units of its sampling: completions are graded at a constant rate, after
the sampling or from when the groups before them have ended (a group is handed on in the order of prompts), and the
update is after the grading or, one rollout ahead, at the same time.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from benchmarks import comparison
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import CHUNK
from dsmath_jax.sampling.scheduler import Prompt, Scheduler, slot_shape
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.workdir import UserError, exit_code

EOS, TOKEN = 1, 2
LIMIT = 1024
MEDIAN, DEVIATION = 200.0, 1.0  # of the lengths before the cut, and of their logarithms
UPDATE = 0.5  # the time of an update in units of the sampling
GRADING = (0.1, 0.5, 1.0)  # the same of the grading of all completions


@dataclasses.dataclass(frozen=True)
class Case:
    """P prompts with G wanted completions each, and how many are decoded at a time."""

    prompts: int
    group: int
    slots: int

    @property
    def name(self) -> str:
        return f"{self.prompts} x {self.group}, {self.slots:,} slots"


CASES = {
    "g64": Case(16, 64, 1024),
    "g64_refill": Case(16, 64, 256),
    "g16_refill": Case(64, 16, 256),
    "p64_refill": Case(64, 64, 1024),
    "tiny": Case(4, 4, 8),
}
DEFAULT = "g64,g64_refill,g16_refill"


class Chunk(NamedTuple):
    """A chunk of decode steps."""

    rows: int
    steps: int
    tokens: int  # of completions
    ended: int  # groups that have been returned by its end


def draw_lengths(prompts: int, samples: int, seed: int) -> Int[np.ndarray, "P G"]:
    """Returns the number of tokens of each sample."""
    noise = np.random.default_rng(seed)
    deviation = DEVIATION / 2**0.5
    logs = np.log(MEDIAN) + deviation * (noise.normal(size=(prompts, 1)) + noise.normal(size=(prompts, samples)))
    return np.clip(np.ceil(np.exp(logs)), 1, LIMIT).astype(int)


def schedule(case: Case, lengths: Int[np.ndarray, "P G"], compact: bool) -> tuple[list[Chunk], list[list[Completion]]]:
    """Runs the scheduler on samples of these lengths, of which `case.group` of each prompt are wanted."""
    samples = lengths.shape[1]
    shape = slot_shape(case.slots, case.prompts, samples, 1)
    requests = [Prompt([TOKEN], prompt, LIMIT) for prompt in range(case.prompts)]
    scheduler = Scheduler(requests, samples, shape, StoppingCriteria([EOS], (), None), wanted=case.group)
    chunks: list[Chunk] = []
    groups: list[list[Completion]] = []
    while scheduler.unfinished:
        scheduler.admit()
        if compact:
            scheduler.compact(prompt_length=1, ring_length=LIMIT)
        slots = scheduler.assign(CHUNK)
        ends = np.where(slots.idle, 0, lengths[slots.prompt_ids, slots.samples])
        positions = slots.num_tokens + np.arange(CHUNK + 1)[:, None]  # of the token of each step
        working = positions < ends
        idle, threshold = (~working).sum(axis=1), scheduler.refill_threshold
        steps = next((n for n in range(1, CHUNK) if idle[n] >= threshold), CHUNK)
        tokens = np.where(positions == ends - 1, EOS, TOKEN)[:steps]
        zeros = np.zeros(tokens.shape)
        scheduler.record(tokens, zeros, zeros, zeros > 0)
        groups += scheduler.pop_completed()
        chunks.append(Chunk(len(slots.idle), steps, int(working[:steps].sum()), len(groups)))
    return chunks, groups


def without_refill(case: Case, lengths: Int[np.ndarray, "P G"]) -> dict[str, float]:
    """Returns the steps of batches that are decoded to their longest completions."""
    flat = lengths.ravel()
    steps = sum(int(flat[i : i + case.slots].max()) for i in range(0, flat.size, case.slots))
    tokens = float(flat.sum())
    return {"steps": steps, "row_steps": steps * min(case.slots, flat.size), "tokens": tokens, "kept": tokens}


def totals(chunks: Sequence[Chunk], groups: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """Returns the steps of a schedule, and the tokens that are computed and kept."""
    return {
        "steps": sum(chunk.steps for chunk in chunks),
        "row_steps": sum(chunk.rows * chunk.steps for chunk in chunks),
        "tokens": sum(chunk.tokens for chunk in chunks),
        "kept": sum(len(completion.tokens) for group in groups for completion in group),
    }


def simulate(case: Case, oversample: float, seed: int) -> tuple[dict[str, dict[str, float]], list[Chunk]]:
    """Returns the numbers of each strategy for one draw of the lengths, and the schedule with refill.

    `oversample` is a share of the group.
    """
    lengths = draw_lengths(case.prompts, case.group, seed)
    more = draw_lengths(case.prompts, case.group + round(oversample * case.group), seed)
    chunks, groups = schedule(case, lengths, compact=False)
    name = f"oversample by {oversample:.0%}"
    found = {
        "without refill": without_refill(case, lengths),
        "refill": totals(chunks, groups),
        "refill, compaction": totals(*schedule(case, lengths, compact=True)),
        name: totals(*schedule(case, more, compact=False)),
        f"{name}, compaction": totals(*schedule(case, more, compact=True)),
    }
    for each in found.values():
        each |= {
            "idle": 1 - each["tokens"] / each["row_steps"],
            "dropped": 1 - each["kept"] / each["tokens"],
            "mean_length": each["kept"] / (case.prompts * case.group),
        }
    return found, chunks


def grading_end(chunks: Sequence[Chunk], grading: float) -> float:
    """Returns when groups that are graded as they end are graded, in units of the sampling.

    `grading` is the time for all groups.
    """
    total, groups = sum(chunk.steps for chunk in chunks), chunks[-1].ended
    now, before, end = 0, 0, 0.0
    for chunk in chunks:
        now += chunk.steps
        if chunk.ended > before:
            end = max(end, now / total) + grading * (chunk.ended - before) / groups
            before = chunk.ended
    return end


def rollout_times(chunks: Sequence[Chunk], grading: float, update: float) -> dict[str, float]:
    """Returns the time of a rollout and its update, in units of the sampling, by their order."""
    end = grading_end(chunks, grading)
    return {
        "in order": 1 + grading + update,
        "groups graded as they end": end + update,
        "one rollout ahead": 1 + max(grading, update),
        "both": 1 + max(end - 1, update),
    }


def measure(case: Case, oversample: float, repetitions: int) -> dict:
    """Returns means over draws of the lengths, by strategy and by the share of grading."""
    draws, schedules = zip(*(simulate(case, oversample, seed) for seed in range(repetitions)), strict=True)
    strategies = {
        name: {field: statistics.fmean(draw[name][field] for draw in draws) for field in draws[0][name]}
        for name in draws[0]
    }
    times = {}
    for grading in GRADING:
        found = [rollout_times(chunks, grading, UPDATE) for chunks in schedules]
        times[str(grading)] = {name: statistics.fmean(each[name] for each in found) for name in found[0]}
    return dataclasses.asdict(case) | {"strategies": strategies, "times": times}


def tables(result: dict) -> str:
    """Returns both tables as Markdown."""
    names = {name: Case(case["prompts"], case["group"], case["slots"]).name for name, case in result["cases"].items()}
    rows = [
        [
            names[name],
            strategy,
            f"{row['steps']:,.0f}",
            f"{row['row_steps'] / 1000:,.0f}",
            f"{100 * row['idle']:.0f}",
            f"{100 * row['dropped']:.0f}",
            f"{row['mean_length']:.0f}",
        ]
        for name, case in result["cases"].items()
        for strategy, row in case["strategies"].items()
    ]
    titles = "completions | strategy | steps | 1,000 row-steps | idle, % | dropped tokens, % | mean length kept"
    first = next(iter(result["cases"].values()))
    orders = list(first["times"][str(GRADING[0])])
    times = [
        [names[name], grading, *(f"{row[order]:.2f}" for order in orders)]
        for name, case in result["cases"].items()
        for grading, row in case["times"].items()
    ]
    head = " | ".join(("completions", "grading / sampling", *orders))
    return f"{comparison.table(titles, rows, text_columns=2)}\n\n{comparison.table(head, times)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "repetitions", "json")
    parser.add_argument("--cases", default=DEFAULT, help=f"of {', '.join(CASES)}")
    parser.add_argument("--oversample", type=float, default=0.25, help="samples beyond the group, as a share of it")
    options = parser.parse_args(argv)
    names = comparison.choose("cases", options.cases, CASES)
    if not options.oversample >= 0:
        raise UserError(f"--oversample must be a share of the group, at least 0; got {options.oversample}.")
    cases = {name: measure(CASES[name], options.oversample, options.repetitions) for name in names}
    result = {"oversample": options.oversample, "update": UPDATE, "cases": cases}
    comparison.publish(options, result, tables(result))


if __name__ == "__main__":
    sys.exit(exit_code(main))
