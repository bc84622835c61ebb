"""The tables of `aot`: recipes on topologies, published rates, and bounds against measured times."""

from typing import Any

import pytest

from benchmarks import aot_measured, aot_published, aot_recipes
from benchmarks.aot_measured import Task
from dsmath_jax.aot.bound import Bound
from dsmath_jax.command_line import load_recipe
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.workdir import UserError

STEP: dict[str, Any] = {
    "hbm_bytes": 8 * 2**30, "chip_bytes": 16 * 2**30, "bound": Bound(2.0, 1.0, 0.5, 0.0)._asdict(), "fits": True,
    "model_flops": 1.5e14, "chip": {"peak_flops": 1e14}, "steps": 3600, "devices": 8, "tokens": 8 * 3 * 8192,
}  # fmt: skip


def test_the_smallest_topology_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def compile_for(*arguments: str) -> dict[str, Any]:
        tried.append(arguments)
        return STEP | {"fits": arguments[1] == "--topology=v5e:4x4"}

    monkeypatch.setattr(aot_recipes, "compile_for", compile_for)
    (row,) = aot_recipes.smallest(["sft_7b"], ["v5e"])
    # 4 chips have 63 GiB, of the 103 that 6.9 B parameters need with moments and gradients.
    assert [arguments[1].partition("=")[2] for arguments in tried] == ["v5e:2x4", "v5e:4x4"]
    assert "--config.model.remat=full" in tried[-1]
    assert row[:3] == ["`sft_7b`", "`v5e:4x4`", "sft.grad_accum_steps=16"]
    assert row[3:] == ["8.0 of 16.0", "2 s", "compute", "75 %", "2 h 00 min"]


def test_the_variants_of_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = STEP | {"bound": None, "fits": False}
    monkeypatch.setattr(aot_recipes, "compile_for", lambda config, topology: None if "t4" in topology else refused)
    rows = list(aot_recipes.variants(["sft"]))
    assert [row[0] for row in rows] == ["`sft:h100`", "`sft:h100-8`", "`sft:v5e-1`", "`sft:v5e-8`"]
    assert rows[0][1:] == ["8.0 of 16.0", "", "", "", ""]


@pytest.mark.parametrize("name", aot_published.CASES)
def test_every_published_case_is_a_recipe(name: str) -> None:
    case, recipe = aot_published.CASES[name], load_recipe(f"{aot_published.__file__}:{name}")
    rows = recipe.pretrain.batch_size // case.devices
    assert (rows, recipe.pretrain.sequence_length) == (case.rows, case.length)
    assert rows % recipe.pretrain.grad_accum_steps == 0


@pytest.mark.parametrize(
    ("name", "tokens"),  # a second and chip, as published with the TFLOP/s
    [("llama3.1-8b_v6e-8", 7138.890), ("mistral-7b_v6e-8", 7776.813), ("llama3.1-8b_v6e-32", 7031.689)],
)
def test_the_published_flops_are_those_of_the_published_tokens(name: str, tokens: float) -> None:
    case = aot_published.CASES[name]
    flops = aot_published.maxtext_flops_per_token(ModelConfig(**case.model), case.length)
    assert tokens * flops == pytest.approx(1e12 * case.teraflops, rel=1e-4)


def test_a_published_rate_and_its_bound() -> None:
    case = aot_published.CASES["llama3.1-8b_v6e-8"]
    row = aot_published.row("llama", case, STEP | {"chip": {"peak_flops": 918e12}})
    assert row[:6] == ["llama", "3 x 8,192", "413", "7,139", "40.0 %", "12,288"]
    assert row[-2:] == ["compute", "0.58"]
    faster = case._replace(teraflops=800.0)
    with pytest.raises(
        UserError, match=r"llama: 13,814 tokens/s of a device are published .* allows 12,288, so it is not a bound"
    ):
        aot_published.row("llama", faster, STEP | {"chip": {"peak_flops": 918e12}})


def test_measured_times_are_compared_with_the_bounds_of_measured_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(n) for n in range(100))
    monkeypatch.setattr(aot_measured.time, "process_time", lambda: next(clock))  # everything takes a second
    made = {
        "product": aot_measured.product(8), "copy": aot_measured.copy(64), "half": Task(512.0, 32.0, lambda: ()),
    }  # fmt: skip
    result = aot_measured.measure(made, repetitions=2)
    assert (result["peak_flops"], result["memory_bandwidth"]) == (1024.0, 128.0)
    assert result["tasks"]["half"]["ratio"] == 2.0
    assert "| half | 0.0 | 0.00 | 0.500 | compute | 1.000 | 2.00 |" in aot_measured.table(result)
