"""CPU seconds of scoring and updating on packed rows, compared with a row for each completion.

    python -m benchmarks.grpo_packing --json=grpo_packing.json

A turn is the reference's log-probabilities of a rollout and one AdamW step of GRPO on it: 4 prompts, 16 completions
each. Lengths are those of GSM8K divided by four: prompts of 25 tokens, completions of 50 on average, log-normal with a
spread of 0.6, cut at 256. The padded side has a row for each completion, as long as the longest of the rollout, rounded
up to a quarter of the limit so that few programs are compiled. Both sides compute the same: losses and gradient norms
must agree. They take turns on the same CPUs, in float32; each has compiled its shapes before it is measured.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import comparison, turns
from benchmarks.grpo_iteration_task import PhaseTimer
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.algorithms import GRPO
from dsmath_jax.rl.batches import Packing, RowShapes, Sequences, TokenFields, pack, padded_length
from dsmath_jax.rl.scoring import INPUTS, jitted_logprobs
from dsmath_jax.sharding import Layout, make_mesh, to_host
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.training.step import init_state, make_train_step
from dsmath_jax.workdir import exit_code, read_json, write_json

SIDES = {"packed": "packed rows", "padded": "a row for each completion"}
PHASES = ("score", "update")
SPREAD = 0.6  # of the log-normal lengths
TOLERANCE = 1e-3  # largest relative difference of the losses and norms


def measure(task: dict, model: dict, repetitions: int, threads: int) -> dict[str, dict]:
    """Measures both sides at the sizes of `task`: prompts, group_size, prompt_tokens, mean_tokens, new_tokens.

    Raises:
      RuntimeError: a side failed, or they do not compute the same.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_json(folder / "task.json", {"task": task, "model": model, "turns": repetitions})
        commands = {side: turns.command(sys.executable, "grpo_packing", folder, side) for side in SIDES}
        return compare(turns.alternate(commands, folder, repetitions, threads))


def prepare(folder: Path, side: str) -> tuple[dict, turns.Work]:
    """Compiles and warms up the turns of a side."""
    setup = read_json(folder / "task.json")
    task, config = setup["task"], ModelConfig(**setup["model"])
    layout = Layout(make_mesh())
    model = build_model(config, layout)
    optimizer = make_optimizer(TrainingSettings(peak_lr=1e-6, warmup_steps=1, steps=1000))
    state = init_state(lambda: initial_params(model, jax.random.key(0)), optimizer, layout)
    reference = jax.tree.map(lambda x: x.copy(), state.params)
    logprobs = jitted_logprobs(model, 1.0)
    step = make_train_step(GRPO().objective, model, optimizer, layout, state)
    timer = PhaseTimer()
    rows = task["prompts"] * task["group_size"]
    shapes = RowShapes(task["prompt_tokens"] + task["new_tokens"], rows, 1, layout)

    def work(turn: int) -> dict:
        nonlocal state
        sequences, fields = rollout(task, config.vocab_size, turn)
        timer.start()
        lengths = sequences.lengths
        packing = pack(lengths, shapes) if side == "packed" else padded(lengths, shapes)
        batch = packing.batch(sequences, {})
        inputs = layout.put_batch({name: batch[name] for name in INPUTS})
        fields["ref_logprobs"] = to_host(logprobs(reference, inputs)).ravel()[packing.targets(sequences)]
        timer.end("score")
        batch = packing.batch(sequences, fields)
        state, scalars = step(state, layout.put_batch(batch))
        values = [float(scalars["loss"]), float(scalars["grad_norm"])]
        timer.end("update")
        return timer.seconds | {"values": values, "padding": float(np.mean(batch["segment_ids"] == 0))}

    for turn in range(setup["turns"]):
        work(turn)
    numbers = iter(range(setup["turns"]))
    return {}, lambda: work(next(numbers))


def padded(lengths: np.ndarray, shapes: RowShapes) -> Packing:
    """Returns the packing with a row for each sequence."""
    quarter = padded_length(-(-shapes.longest // 4), shapes.layout)
    length = -(-int(lengths.max()) // quarter) * quarter
    return Packing(np.arange(len(lengths)) * length, np.ones_like(lengths), (len(lengths), length))


def rollout(task: dict, vocabulary: int, turn: int) -> tuple[Sequences, TokenFields]:
    """Returns random completions of mixed lengths with advantages."""
    random = np.random.default_rng(turn)
    count = task["prompts"] * task["group_size"]
    drawn = random.lognormal(np.log(task["mean_tokens"]) - SPREAD**2 / 2, SPREAD, count)
    lengths = np.clip(drawn.astype(int), 1, task["new_tokens"])
    pairs = [
        (random.integers(vocabulary, size=task["prompt_tokens"]), random.integers(vocabulary, size=length))
        for length in lengths
    ]
    tokens = lengths.sum()
    near = -np.log(vocabulary) + random.normal(0, 0.1, tokens)
    fields = {
        "loss_weights": np.ones(tokens), "sampler_logprobs": near, "old_logprobs": near,
        "advantages": np.repeat(random.normal(size=count), lengths),
    }  # fmt: skip
    return Sequences.of(pairs), {name: values.astype(np.float32) for name, values in fields.items()}


def compare(results: turns.Results) -> dict[str, dict]:
    """Returns medians and ratios to packed rows by side."""
    fields = [*PHASES, *(f"{phase}_cpu" for phase in PHASES)]
    sides: dict[str, dict] = {}
    for name, (_, reports) in results.items():
        sides[name] = comparison.medians(reports, "seconds", "cpu_seconds", *fields) | {
            "padding": float(np.mean([report["padding"] for report in reports])),
            "values": [value for report in reports for value in report["values"]],
            "peak_bytes": reports[-1]["peak_bytes"],
        }
    packed = sides["packed"]
    for name, side in sides.items():
        comparison.difference(name, side["values"], packed["values"], TOLERANCE)
        side |= comparison.ratios(side, packed, cpu="cpu_seconds")
    return sides


def table(sides: Mapping[str, dict]) -> str:
    """Returns the result as Markdown."""
    rows = [
        [
            SIDES[name],
            f"{side['padding']:.0%}",
            *(f"{side[phase]:.2f} ({side[phase + '_cpu']:.2f})" for phase in PHASES),
            f"{side['cpu_seconds']:.2f}",
            f"{side['cpu_ratio']:.2f}",
        ]
        for name, side in sides.items()
    ]
    titles = "side | padding | score, s (CPU s) | update, s (CPU s) | CPU s | × packed"
    return comparison.table(titles, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = comparison.parser(__doc__, "threads", "repetitions", "json")
    parser.add_argument("--prompts", type=int, default=4, help="P")
    parser.add_argument("--group_size", type=int, default=16, help="G")
    parser.add_argument("--prompt_tokens", type=int, default=25, help="of every prompt")
    parser.add_argument("--mean_tokens", type=int, default=50, help="of a completion, on average")
    parser.add_argument("--new_tokens", type=int, default=256, help="the limit of a completion")
    parser.add_argument("--vocabulary", type=int, default=4096, help="V")
    parser.add_argument("--hidden_size", type=int, default=256, help="D")
    parser.add_argument("--num_hidden_layers", type=int, default=8, help="L")
    options = parser.parse_args(argv)
    names = ("prompts", "group_size", "prompt_tokens", "mean_tokens", "new_tokens")
    task = {name: getattr(options, name) for name in names}
    hidden_size = options.hidden_size
    model = sizes(
        "1m", vocab_size=options.vocabulary, num_hidden_layers=options.num_hidden_layers, hidden_size=hidden_size,
        num_attention_heads=max(1, hidden_size // 32), head_dim=32, intermediate_size=43 * hidden_size // 16,
        max_position_embeddings=options.prompt_tokens + options.new_tokens, tie_word_embeddings=False, remat="minimal",
    )  # fmt: skip
    sides = measure(task, model, options.repetitions, options.threads)
    comparison.publish(options, {"task": task, "model": model, "sides": sides}, table(sides))


if __name__ == "__main__":
    sys.exit(exit_code(main))
