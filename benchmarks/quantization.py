"""How far a quantized sampler's log-probabilities are from the trainer's, on completions that it samples.

    python -m benchmarks.quantization --checkpoint=hf:data/checkpoints/stories260k_hf --prompt="Once upon a time"
    python -m benchmarks.quantization --checkpoint=runs/tiny/sft --dtypes=float32

A row for each compute dtype, KV cache and weights of the sampler: the mean, the 99th percentile and the largest
absolute difference of the log-probabilities of the same tokens, and the KL divergence of the trainer's policy from the
sampler's, all in nats per token. The trainer is not quantized and has the same compute dtype. Completions of one prompt
are sampled at temperature 1. The KL is the mean of r - 1 - log r over the sampled tokens, r = pi_trainer / pi_sampler.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import comparison
from dsmath_jax.models.quantization import INT8
from dsmath_jax.rl.batches import RowShapes, Sequences
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training.model_files import LanguageModel, load_model
from dsmath_jax.workdir import exit_code

DTYPES = ("float32", "bfloat16")
SLOTS, MICRO_BATCHES = 64, 4
COLUMNS = "compute dtype | KV cache | weights | mean | 99 % | largest | KL"


class Difference(NamedTuple):
    """Absolute differences of log-probabilities, and the KL divergence, in nats per token."""

    mean: float
    percentile_99: float
    largest: float
    kl: float


def difference(model: LanguageModel, dtypes: DecodeDtypes, prompt: str, samples: int, new_tokens: int) -> Difference:
    """Samples completions and compares the sampler's log-probabilities with the trainer's."""
    decoder, params, layout, ids = model.model, model.params, model.layout, model.chat.encode(model.chat.plain(prompt))
    sampler = Sampler(decoder, layout, model.chat.stop_ids, new_tokens, SLOTS, dtypes)
    [group] = sampler.generate(params, [ids], SamplingParams(samples=samples, seed=0))
    sampled = np.concatenate([completion.logprobs for completion in group])
    shapes = RowShapes(len(ids) + new_tokens, samples, MICRO_BATCHES, layout)
    forward = PackedForward(jitted_logprobs(decoder, 1.0), shapes)
    trained = forward(params, Sequences.of([(ids, completion.tokens) for completion in group]))
    log_ratio = np.float64(trained) - sampled
    absolute = np.abs(log_ratio)
    kl = np.mean(np.expm1(log_ratio) - log_ratio)
    return Difference(*map(float, (absolute.mean(), np.quantile(absolute, 0.99), absolute.max(), kl)))


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yields a row for each compute dtype, cache and weights."""
    for dtype in comparison.choose("dtypes", options.dtypes, DTYPES):
        model = load_model(options.checkpoint, Layout(make_mesh()), "", dtype)
        for weights, cache in (("", ""), ("", INT8), (INT8, ""), (INT8, INT8)):
            dtypes = DecodeDtypes(cache_dtype=cache, decode_weight_dtype=weights)
            found = difference(model, dtypes, options.prompt, options.samples, options.new_tokens)
            yield [dtype, cache or dtype, weights or dtype, *(f"{value:.1e}" for value in found)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the folder of a stage, or hf:DIR")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="compute dtypes, joined by commas")
    parser.add_argument("--prompt", default="1", help="the text that is continued")
    parser.add_argument("--samples", type=int, default=64, help="completions")
    parser.add_argument("--new_tokens", type=int, default=256, help="length limit of a completion")
    print(comparison.table(COLUMNS, rows(parser.parse_args(argv)), 3))


if __name__ == "__main__":
    sys.exit(exit_code(main))
