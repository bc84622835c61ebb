"""The search for settings with the best bound, with a compiler that says at once how much memory each would need."""

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from dsmath_jax.aot import estimate
from dsmath_jax.aot import suggest as search
from dsmath_jax.aot.bound import Bound
from dsmath_jax.aot.page import page, size
from dsmath_jax.aot.step import Target
from dsmath_jax.aot.suggest import Candidate, micro_batches, suggest, suggestion_text
from dsmath_jax.aot.text import result_text
from dsmath_jax.aot.topology import Topology
from dsmath_jax.hardware import CHIPS
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.algorithms import DPO, GRPO
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training.settings import PretrainSettings
from dsmath_jax.workdir import UserError

MODEL = ModelConfig(
    vocab_size=1024, num_hidden_layers=4, hidden_size=256, num_attention_heads=8, head_dim=32, intermediate_size=512,
    max_position_embeddings=512,
)  # fmt: skip
TRAINING = {"steps": 10, "checkpoint_every": 10, "peak_lr": 1e-3, "warmup_steps": 1}
RECIPE = Recipe(
    model=MODEL,
    pretrain=PretrainSettings(sequence_length=512, batch_size=64, **TRAINING),
    rl=RLSettings(
        method="grpo_rule", prompts_per_step=8, group_size=8, max_prompt_tokens=128, max_new_tokens=128, **TRAINING
    ),
)
CHIP = dataclasses.replace(CHIPS["h100"], memory=10**9, cache=0)


def fake_target(recipe: Recipe, name: str) -> Target:
    del name
    layout = Layout(make_mesh(recipe.mesh, jax.devices()))
    return Target(Topology("here:1", jax.devices(), CHIP), layout, Decoder(recipe.model))


def result(recipe: Recipe, hbm_bytes: int, seconds: float) -> dict[str, Any]:
    bound = Bound(seconds, seconds / 2, 0.0, 0.0)._asdict()
    return fake_target(recipe, "").describe() | {
        "stage": "pretrain", "hbm_bytes": hbm_bytes, "fits": hbm_bytes <= CHIP.memory * 0.75, "bound": bound,
        "memory": {"arguments": hbm_bytes // 2, "temporaries": hbm_bytes, "output": 0, "aliased": 0, "code": 10},
        "collectives": [{"kind": "all-gather", "axes": ("fsdp",), "count": 3, "bytes": 2.0**30}], "notes": ["a loop"],
        "grad_accum_steps": recipe.pretrain.grad_accum_steps, "tokens": 64 * 512, "steps": 10, "model_flops": 1e12,
        "flops_ratio": 1.1, "full_rematerializations": 0, "seconds": 1.0,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "make_target", fake_target)
    monkeypatch.setattr(search, "topology", lambda name: fake_target(RECIPE, name).topology)


def test_a_method_without_programs_is_refused() -> None:
    recipe = dataclasses.replace(RECIPE, rl=RLSettings(method="dpo", algorithm=DPO(), **TRAINING))
    with pytest.raises(UserError, match="method=dpo learns from stored samples, whose lengths are not known"):
        suggest(recipe, "rl", "here:1")


def test_the_largest_micro_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, int]] = []

    def compile_step(recipe: Recipe, stage: str, name: str) -> dict[str, Any]:
        compiled.append((recipe.model.remat, recipe.pretrain.grad_accum_steps))
        full = recipe.model.remat == "full"
        return result(recipe, (1 if full else 4) * 2 * 10**9 // recipe.pretrain.grad_accum_steps, 4 / 3 if full else 1)

    monkeypatch.setattr(search, "compile_step", compile_step)
    trials, skipped = suggest(RECIPE, "pretrain", "here:1")
    # 64 rows in micro-batches of at most 16, until 8e9 bytes over the micro-batches fit.
    assert compiled == [("minimal", 4), ("minimal", 8), ("minimal", 16), ("full", 4)]
    assert trials[0].fits
    assert trials[0].candidate == Candidate(MeshSettings(fsdp=1), "minimal", 16, 0)
    text = suggestion_text(trials, skipped, "pretrain")
    assert "DOES NOT FIT" in text
    assert text.endswith(
        "--config.mesh.replica=1 --config.mesh.fsdp=1 --config.mesh.context=1 --config.mesh.tensor=1 "
        "--config.model.remat=minimal --config.pretrain.grad_accum_steps=16"
    )


def test_where_nothing_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "compile_step", lambda recipe, stage, name: result(recipe, 10**12, 1.0))
    trials, skipped = suggest(RECIPE, "pretrain", "here:1")
    assert {each.candidate.grad_accum_steps for each in trials} == {4, 8, 16, 32, 64}
    assert "Nothing fits: take more devices" in suggestion_text(trials, skipped, "pretrain")


def test_settings_whose_state_alone_is_too_large_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "min_bytes", lambda target, settings: 10**12 // settings.grad_accum_steps)
    monkeypatch.setattr(search, "compile_step", lambda recipe, stage, name: pytest.fail("compiled"))
    assert suggest(RECIPE, "pretrain", "here:1")[0] == []


@pytest.mark.parametrize("stage", ["pretrain", "rl"])
def test_a_model_that_never_fits_ends_the_search(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "min_bytes", lambda target, settings: 10**15)
    trials, skipped = suggest(RECIPE, stage, "here:1")
    assert "Nothing fits" in suggestion_text(trials, skipped, stage)


def test_rl_takes_fewer_decode_slots_where_sampling_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, int]] = []

    def compile_rl(recipe: Recipe, name: str) -> dict[str, Any]:
        slots, accum = recipe.rl.num_decode_slots, recipe.rl.grad_accum_steps
        compiled.append((slots, accum))
        phases = {"sample": {"cache": slots * 3 * 10**7}, "update": {"activations": 4 * 10**9 // accum}}
        peak = max(sum(parts.values()) for parts in phases.values())
        usable = int(0.75 * CHIP.memory)
        return {
            "phases": phases, "hbm_bytes": peak, "fits": peak <= usable, "chip_bytes": usable,
            "bounds": {"sample": Bound(0, 1.0, 0, 0)._asdict(), "update": Bound(2.0, 1.0, 0, 0)._asdict()},
        }  # fmt: skip

    monkeypatch.setattr(search, "compile_rl", compile_rl)
    trials, _ = suggest(RECIPE, "rl", "here:1")
    assert compiled[:4] == [(64, 4), (32, 4), (16, 4), (16, 8)]
    assert trials[0].candidate[2:] == (8, 16)
    assert (trials[0].seconds, trials[0].limit) == (3.0, "compute")
    assert "--config.rl.decode_slots=16" in suggestion_text(trials, 0, "rl")


def test_decode_slots_whose_cache_alone_is_too_large_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def compile_rl(recipe: Recipe, name: str) -> dict[str, Any]:
        compiled.append(recipe.rl.num_decode_slots)
        bounds = {"sample": Bound(0, 1.0, 0, 0)._asdict()}
        return {"phases": {}, "hbm_bytes": 1, "fits": True, "chip_bytes": 2, "bounds": bounds}

    slots_that_fit = lambda target, settings: settings.num_decode_slots * 10**8  # noqa: E731
    monkeypatch.setattr(search, "min_sampling_bytes", slots_that_fit)
    monkeypatch.setattr(search, "compile_rl", compile_rl)
    trials, _ = suggest(RECIPE, "rl", "here:1")
    assert compiled[0] == trials[0].candidate.decode_slots == 4  # 64, 32, 16 and 8 need more than 750 MB


def test_a_search_ends_where_nothing_gets_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as little work in every bound before compiling as if the products took no time."""
    compiled: list[MeshSettings] = []

    def compile_step(recipe: Recipe, stage: str, name: str) -> dict[str, Any]:
        compiled.append(recipe.mesh)
        return result(RECIPE, 10**8, 1.0 if len(compiled) == 1 else 0.995)

    devices = [SimpleNamespace(platform="gpu", process_index=0)] * 8
    monkeypatch.setattr(search, "topology", lambda name: Topology("here:8", devices, CHIP))
    monkeypatch.setattr(search, "_target", lambda *_: (fake_target(RECIPE, ""), RECIPE.pretrain))
    monkeypatch.setattr(search, "lower_bounds", lambda target, settings: [Bound(0.1, 0.0, 0.0, 0.0)])
    monkeypatch.setattr(search, "compile_step", compile_step)
    trials, skipped = suggest(RECIPE, "pretrain", "here:8")
    assert len(trials) == len(compiled) == 1 + search.PATIENCE
    assert {len(trials) + skipped} == {2 * 10}  # meshes of 8 devices with replica and tensor, and two policies
    assert trials[0].seconds == 0.995


def test_micro_batches_of_every_size_that_divides_the_rows() -> None:
    assert micro_batches(20) == [2, 4, 5, 10, 20]
    assert micro_batches(64) == [4, 8, 16, 32, 64]
    assert micro_batches(3) == [1, 3]


def test_the_bound_before_compiling_is_that_of_the_products_on_one_device() -> None:
    def compute(remat: str) -> float:
        model = dataclasses.replace(MODEL, remat=remat)
        recipe = dataclasses.replace(RECIPE, model=model, mesh=MeshSettings(fsdp=1))
        (bound,) = estimate.lower_bounds(fake_target(recipe, ""), RECIPE.pretrain)
        return bound.compute * 989e12 / (64 * 512)  # FLOPs of a token

    logits, attention = 6 * 256 * 1024, 6 * 4 * 8 * 32 * 512
    layers = estimate.model_flops_per_token(MODEL, 512) - logits - attention
    assert compute("minimal") == pytest.approx(layers + 8 / 6 * logits + 7 / 6 * attention)
    last = 2 * 4 * 256 * 512  # nothing needs a layer's last product again
    assert compute("full") == pytest.approx(8 / 6 * (layers + logits) - last + 9 / 6 * attention)


def test_the_bounds_of_rl_before_compiling_have_its_three_phases() -> None:
    update, score, sample = estimate.lower_bounds(fake_target(RECIPE, ""), RECIPE.rl)
    assert update.compute > 2 * score.compute > 0  # the reference's forward pass
    weights = 2 * estimate.matmul_parameters(MODEL)  # in bfloat16, read in each of 128 decode steps
    assert sample.memory > 128 * weights / 3350e9
    half = dataclasses.replace(RECIPE.rl, decode_slots=32)
    assert (
        estimate.lower_bounds(fake_target(RECIPE, ""), half)[2].memory > 1.2 * sample.memory
    )  # the weights twice as often


def test_what_a_device_needs_in_any_case() -> None:
    def needed(settings: Any, **changes: Any) -> int:
        recipe = dataclasses.replace(RECIPE, model=dataclasses.replace(MODEL, **changes))
        return estimate.min_bytes(fake_target(recipe, ""), settings)

    layers = 4 * (4 * 256 * 256 + 3 * 256 * 512 + 2 * 256)
    parameters = layers + 2 * 1024 * 256 + 256
    tokens = 64 * 512 / jax.device_count()
    inputs = needed(RECIPE.pretrain, remat="full") - 4 * (3 + 1) * parameters / jax.device_count()
    assert inputs == pytest.approx(2 * tokens * 4 * 256, rel=0.02)  # bfloat16; float32 state and gradients
    products = needed(RECIPE.pretrain, remat="minimal") - needed(RECIPE.pretrain, remat="full")
    assert products == pytest.approx(2 * tokens * 4 * (256 + 3 * 256 + 2 * 512))
    without = dataclasses.replace(RECIPE.rl, algorithm=GRPO(kl_coef=0.0))
    assert needed(RECIPE.rl) - needed(without) == pytest.approx(4 * parameters / jax.device_count(), rel=0.02)


def test_what_a_device_needs_to_sample_in_any_case() -> None:
    def needed(**changes: Any) -> int:
        settings = dataclasses.replace(RECIPE.rl, **changes)
        return estimate.min_sampling_bytes(fake_target(RECIPE, ""), settings)

    tokens = 4 * 2 * 8 * 32 * 2 / jax.device_count()  # bytes of a slot's keys and values for a token, in bfloat16
    assert needed(decode_slots=64) - needed(decode_slots=32) == pytest.approx(32 * 128 * tokens, rel=0.35)
    parameters = 4 * (4 * 256 * 256 + 3 * 256 * 512) + 2 * 1024 * 256
    assert needed(decode_slots=8) > (3 + 1) * 4 * parameters / jax.device_count() + 2 * parameters


def test_the_page_and_the_text_of_a_step() -> None:
    found = result(RECIPE, 5 * 10**8, 2.0)
    html = page(found)
    assert html.startswith("<!doctype html>")
    assert "477 MiB of 715 MiB" in html
    assert "fsdp" in html
    assert "http" not in html.replace(CHIP.source, "")  # self-contained
    text = result_text(found)
    assert "at the peak" in text
    assert "a step takes at least 2.0 s, 2.0 s without overlap" in text
    assert "at most 16,384 tokens per second" in text
    unknown = found | {"chip": found["chip"] | {"peak_flops": None}}
    assert "MFU" not in result_text(unknown)
    assert "Peak rates: unknown, HBM 3350 GB/s" in page(unknown)
    for shown in (result_text(found), html):
        assert "buffers of NCCL" in shown
    assert "NCCL" not in result_text(found | {"device_kind": "TPU v5"})
    assert "Programs" not in html
    refused = found | {"memory": None, "bound": None, "fits": False, "collectives": None}
    assert "does not fit" in page(refused)
    assert "XLA refuses to compile it" in result_text(refused)


def test_the_page_of_rl_has_phases_and_programs() -> None:
    step = result(RECIPE, 5 * 10**8, 2.0)
    programs = {
        "decode": step | {"flops": 1e12, "traffic": 1e9},
        "update": step | {"memory": None, "bound": None, "collectives": None},
    }
    phases = {"sample": {"policy": 3 * 2**30, "cache": 2**20}, "update": {"policy": 3 * 2**30, "activations": 2**29}}
    bounds = dict.fromkeys(phases, step["bound"])
    html = page(
        step | {"stage": "rl", "rows": 64, "new_tokens": 128, "rollouts": 10} | {"programs": programs}
        | {"phases": phases, "bounds": bounds}
    )  # fmt: skip
    assert html.count("3.00 GiB") >= 2
    assert "refused: not enough memory" in html
    assert "a run of decode is a chunk of decode steps" in html
    assert "All 10 such rollouts: at least 40.0 s." in html
    colors = re.findall(r'class="key" style="background:(#\w+)"></span>([^<]+)', html)
    assert [part for _, part in colors] == ["policy", "cache", "activations"]
    assert len(dict(colors)) == 3  # a part has the same color in all phases, and no other part has it


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "0.98 KiB"), (12.9 * 2**30, "12.9 GiB")]
)
def test_sizes_have_three_digits(number: float, text: str) -> None:
    assert size(number) == text
