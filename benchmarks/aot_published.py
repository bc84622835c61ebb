"""The bounds of `dsmath aot` against published rates of MaxText, for the same models, batches and slices.

    python -m benchmarks.aot_published                    # all cases
    python -m benchmarks.aot_published --cases=llama3.1-8b_v6e-8

A bound must be above every rate that was measured. The program that is compiled is this project's, with settings that
fit; MaxText's meshes, kernels and saved activations are others. MaxText counted the masked half of attention too: its
TFLOP/s give tokens per second, and MFU is by the formula of `training/flops.py`, which does not. The file is the config
of its cases: `--config=benchmarks/aot_published.py:CASE`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks import comparison
from benchmarks.aot_results import compile_for
from dsmath_jax.aot.text import bounds_of
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.training.flops import matmul_parameters, model_flops_per_token
from dsmath_jax.workdir import UserError, exit_code


class Case(NamedTuple):
    """A published measurement.

    Attributes:
      model: fields of `ModelConfig`.
      topology: the devices.
      devices: their number.
      rows: of a device in a step.
      length: tokens of a row.
      teraflops: published TFLOP/s of a device.
      source: where it is published.
      settings: of this project's step, so that it fits.
    """

    model: dict[str, Any]
    topology: str
    devices: int
    rows: int
    length: int
    teraflops: float
    source: str
    settings: dict[str, Any]


_LLAMA_8B = {
    "vocab_size": 128_256, "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14_336, "max_position_embeddings": 8192,
    "rope_theta": 5e5,
}  # fmt: skip
_LLAMA2_7B = {
    "vocab_size": 32_000, "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
    "intermediate_size": 11_008,
}  # fmt: skip
_MAXTEXT_32B = {  # global_parameter_scale=32
    "vocab_size": 32_000, "num_hidden_layers": 32, "hidden_size": 8192, "num_attention_heads": 64, "head_dim": 128,
    "intermediate_size": 28_672,
}  # fmt: skip
_RECIPES = "github.com/AI-Hypercomputer/tpu-recipes/tree/main/training/trillium"
_MAXTEXT = "github.com/AI-Hypercomputer/maxtext/tree/main/MaxText/configs"
CASES = {
    "llama3.1-8b_v6e-8": Case(
        _LLAMA_8B, "v6e-8", 8, 3, 8192, 413.433, f"{_RECIPES}/Llama3.1-8B-MaxText/v6e-8", {"remat": "full"}
    ),
    "mistral-7b_v6e-8": Case(
        _LLAMA_8B | {"vocab_size": 32_000, "rope_theta": 1e4}, "v6e-8", 8, 6, 8192, 431.981,
        f"{_RECIPES}/Mistral-7B-MaxText", {"remat": "full", "grad_accum_steps": 2},
    ),
    "llama3.1-8b_v6e-32": Case(
        _LLAMA_8B, "v6e-32", 32, 3, 8192, 407.225, f"{_RECIPES}/Llama3.1-8B-MaxText/v6e-32", {"remat": "full"}
    ),
    "32b_v5p-128": Case(
        _MAXTEXT_32B, "v5p-128", 64, 6, 2048, 328.0, f"{_MAXTEXT}/v5p", {"remat": "minimal", "grad_accum_steps": 2}
    ),
    "64b_v5p-128": Case(
        _MAXTEXT_32B | {"num_hidden_layers": 64}, "v5p-128", 64, 3, 2048, 323.0, f"{_MAXTEXT}/v5p",
        {"remat": "minimal", "grad_accum_steps": 3},
    ),
    "llama2-7b_h100-8": Case(
        _LLAMA2_7B, "h100-8", 8, 4, 4096, 492.0, f"{_MAXTEXT}/a3/llama_2_7b",
        {"remat": "minimal", "grad_accum_steps": 2},
    ),
}  # fmt: skip


def get_config(case: str) -> ConfigDict:
    """Returns the recipe of a case's train step."""
    model, _, devices, rows, length, _, _, settings = CASES[case]
    return ConfigDict(
        {
            "model": model | {"remat": settings["remat"]},
            "pretrain": {
                "sequence_length": length, "batch_size": rows * devices,
                "grad_accum_steps": settings.get("grad_accum_steps", 1),
            },
        }
    )  # fmt: skip


def maxtext_flops_per_token(config: ModelConfig, length: int) -> float:
    """Returns the FLOPs of training on a token as MaxText counted them: attention without the causal mask."""
    return 2 * model_flops_per_token(config, length) - 6 * matmul_parameters(config)


def row(name: str, case: Case, found: dict[str, Any]) -> list[str]:
    """Returns the published rate of a case and the highest that the bound allows."""
    config, bound, tokens = ModelConfig(**case.model), bounds_of(found)["step"], found["tokens"] / found["devices"]
    published = 1e12 * case.teraflops / maxtext_flops_per_token(config, case.length)
    rates = published, tokens / bound.overlapped, tokens / bound.serial
    if published > rates[1]:
        raise UserError(
            f"{name}: {published:,.0f} tokens/s of a device are published ({case.source}), but the bound allows "
            f"{rates[1]:,.0f}, so it is not a bound; correct dsmath_jax/aot or the case."
        )
    mfu = [100 * rate * model_flops_per_token(config, case.length) / found["chip"]["peak_flops"] for rate in rates]
    return [
        name, f"{case.rows} x {case.length:,}", f"{case.teraflops:.0f}", f"{published:,.0f}", f"{mfu[0]:.1f} %",
        f"{rates[1]:,.0f}", f"{mfu[1]:.1f} %", f"{mfu[2]:.1f} %", bound.limit, f"{published / rates[1]:.2f}",
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    names = comparison.choose("cases", parser.parse_args(argv).cases, CASES)
    rows = []
    for name in names:
        found = compile_for(f"--config={__file__}:{name}", f"--topology={CASES[name].topology}")
        if found is None:
            continue  # the reason is on stderr
        if not found["fits"]:
            raise UserError(f"{name}: the step does not fit {found['topology']}; change the case's settings.")
        rows.append(row(name, CASES[name], found))
    print(
        comparison.table(
            "model and devices | rows of a device | published TFLOP/s | tokens/s | MFU | at most tokens/s | MFU | "
            "MFU without overlap | limit | published / bound",
            rows,
        )
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
