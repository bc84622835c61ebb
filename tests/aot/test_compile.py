"""Compiling for TPUs and GPUs that are not there: the stages of a small config, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.aot import program, rl
from dsmath_jax.aot.__main__ import main
from dsmath_jax.aot.text import result_text
from dsmath_jax.aot.topology import Topology
from dsmath_jax.hardware import CHIPS
from dsmath_jax.sampling.sampler import CHUNK
from dsmath_jax.workdir import UserError, exit_code
from tests.aot.compilers import needs_cuda, needs_cudnn, needs_libtpu

ROOT = Path(__file__).parents[2]


def test_donated_arguments_are_counted_once() -> None:
    def memory(donate: tuple[int, ...]) -> dict[str, Any]:
        f = jax.jit(lambda x: x + 1, donate_argnums=donate)
        return program.memory_of(f.lower(jax.ShapeDtypeStruct((1 << 20,), jnp.float32)).compile())

    kept, donated = memory(()), memory((0,))
    assert donated["memory"]["aliased"] == 1 << 22
    assert kept["hbm_bytes"] - donated["hbm_bytes"] == 1 << 22


def test_a_program_that_xla_refuses_for_its_memory() -> None:
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 33.25G of 31.25G hbm. Exceeded"
    assert program.refused_memory(message) == {"hbm_bytes": int(33.25 * 2**30), "memory": None}
    message = (
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (512.5M) exceeds available HBM (31.25G)."
    )
    assert program.refused_memory(message)["hbm_bytes"] == int(512.5 * 2**20)
    with pytest.raises(UserError, match="XLA cannot compile this step: INTERNAL: RET_CHECK"):
        program.refused_memory("INTERNAL: RET_CHECK failure\nand more")


def test_a_program_is_compiled_again_for_another_version_of_its_own_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions, compiled = {"libtpu": "1", "jax-cuda13-plugin": "1"}, []
    lowered = jax.jit(lambda x: x + 1).lower(1.0)

    def compile_now(compiler_options: dict[str, Any]) -> Any:
        compiled.append(dict(versions))
        return lowered.compile()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(program, "_version", lambda package: versions.get(package, ""))
    topology = Topology("v5e:1x1", [SimpleNamespace(platform="tpu")], CHIPS["v5e"])
    for version in ({}, {"jax-cuda13-plugin": "2"}, {"libtpu": "2"}):
        versions |= version
        program._compiled(SimpleNamespace(as_text=lowered.as_text, compile=compile_now), topology)
    assert [each["libtpu"] for each in compiled] == ["1", "2"]


def test_what_native_code_says_is_kept_off_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    with program.capture_stderr() as captured:
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert captured == ["noise\n"]
    assert capfd.readouterr().err == "after\n"


CONFIG = """
from ml_collections import ConfigDict
from dsmath_jax.models.sizes import sizes

def get_config():
    config = ConfigDict()
    config.tokenizer = {"vocab_size": 512}
    config.model = sizes(
        "134m", num_hidden_layers=2, hidden_size=256, num_attention_heads=2, head_dim=128, intermediate_size=256,
        remat="full",
    )  # fmt: skip
    training = {
        "steps": 100, "checkpoint_every": 10, "grad_accum_steps": 2, "peak_lr": 1e-3, "warmup_steps": 10,
    }  # fmt: skip
    config.pretrain = {"sequence_length": 256, "batch_size": 16, **training}
    labeled = {"max_new_tokens": 128, "batch_size": 16, **training}
    config.reward_model = {"kind": "pairwise", **labeled}
    config.process_model = {"lora": {"rank": 8}, **labeled}
    config.rl = {
        "method": "grpo_rule", "prompts_per_step": 4, "group_size": 4, "max_prompt_tokens": 129, "max_new_tokens": 128,
        **training,
    }  # fmt: skip
    return config
"""


def options(tmp_path: Path, *flags: str) -> list[str]:
    config = tmp_path / "small.py"
    config.write_text(CONFIG, encoding="utf-8")
    return [f"--config={config}", f"--json={tmp_path / 'out.json'}", *flags]


def aot(tmp_path: Path, *flags: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command, out = [sys.executable, "-m", "dsmath_jax.aot", *options(tmp_path, *flags)], tmp_path / "out.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path.parent / "cache")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return run, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


@pytest.mark.slow
@needs_libtpu
def test_a_small_config_compiles_for_v5e_with_splash_attention(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["fits"] is True
    assert found["device_kind"] == "TPU v5 lite"
    assert found["mesh"] == {"replica": 1, "fsdp": 4, "context": 1, "tensor": 1}
    memory = found["memory"]
    together = sum(memory.values()) - 2 * memory["aliased"]
    assert memory["arguments"] < found["hbm_bytes"] < 1.2 * together
    # Two layers of 4 x 256 x 256 + 3 x 256 x 256 weights, embedding and head, each with two moments, over four devices.
    weights = (2 * 7 * 256 * 256 + 2 * 512 * 256) * 4 * 3 / 4
    np.testing.assert_allclose(memory["arguments"], weights, rtol=0.05)
    assert memory["aliased"] > 0.9 * memory["arguments"]  # the state is donated
    assert [name.split("_")[2] for name in found["kernels"]] == ["dkv", "dq", "fwd"]
    # Everything is made again, so 8 in place of 6 units a product, and of attention's (2 + 2 + 3 + 4) in place of 6.
    assert 1.3 < found["flops_ratio"] < 1.5
    assert found["notes"] == []
    # Each matrix is gathered in bfloat16 for each of two micro-batches and twice of them, forward and to remake.
    gathered = [row["bytes"] for row in found["collectives"] if (row["kind"], row["axes"]) == ("all-gather", ["fsdp"])]
    assert sum(gathered) >= 2 * 2 * (2 * 7 * 256 * 256) * 2 * 3 / 4
    assert found["bound"]["compute"] == found["flops"] / 197e12
    assert found["traffic"] > memory["arguments"]  # every parameter and moment is read and written
    assert found["bound"]["links"] > 0
    assert "seconds, at least" in run.stdout
    assert found["full_rematerializations"] == 0
    assert "fits" in run.stdout
    assert result_text(found) == run.stdout.strip()


@pytest.mark.slow
@needs_libtpu
def test_layers_with_and_without_a_window_compile_for_v5e(tmp_path: Path) -> None:
    """As in Gemma 2, with kernels for both kinds of layer."""
    types = "('sliding_attention', 'full_attention')"
    changed = {"sliding_window": 128, "layer_types": types, "attn_logit_softcapping": 50.0, "attention_bias": True}
    changed |= {"final_logit_softcapping": 30.0, "norm_placement": "both", "qk_norm": "head", "scale_embeddings": True}
    run, found = aot(tmp_path, "--topology=v5e:2x2", *(f"--config.model.{k}={v}" for k, v in changed.items()))
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["fits"] is True
    assert [name.split("_")[2] for name in found["kernels"]] == ["dkv", "dq", "fwd"]
    assert found["full_rematerializations"] == 0


@needs_libtpu
@pytest.mark.slow
def test_a_config_made_too_large_does_not_fit(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--config.pretrain.batch_size=262144")
    assert (run.returncode, run.stderr) == (0, "")
    assert found["fits"] is False
    assert found["hbm_bytes"] > found["chip_bytes"] == int(15.75 * 2**30)
    assert "DOES NOT FIT" in run.stdout


@pytest.mark.slow
@needs_libtpu
def test_all_programs_of_rl_compile_for_v5e(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--stage=rl", "--config.rl.max_prompt_tokens=384")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert list(found["programs"]) == [
        "prefill", "decode", "decode, shortest cache", "grow", "logprobs", "update"
    ]  # fmt: skip
    weights = 2 * 7 * 256 * 256 + 2 * 512 * 256
    norms = 5 * 256  # whole on every device
    assert found["residents"]["policy"] == found["residents"]["reference"] == weights + 4 * norms  # float32 over four
    assert found["residents"]["optimizer"] == pytest.approx(2 * (weights + 4 * norms), rel=1e-4)
    parts = found["phases"]["sample"]
    assert parts["weights to decode with"] == 2 * weights + 4 * norms  # bfloat16, on every device
    # Keys and values of 16 rings of 128 places, and of 4 prompts in the bucket of 384, in bfloat16, over four devices.
    cache = 2 * 2 * 256 * 2 * (16 * 128 + 4 * 384) / 4
    assert found["programs"]["decode"]["memory"]["arguments"] == pytest.approx(2 * weights + cache, rel=0.02)
    assert parts["cache, and sampling above it"] > cache
    assert found["programs"]["decode"]["memory"]["aliased"] > 0.9 * cache  # the state is donated
    assert "splash_mha_dq" in str(found["programs"]["update"]["kernels"])
    # A chunk of decode steps reads all weights at least once: so small a model stays in on-chip memory during it.
    assert found["bounds"]["sample"]["memory"] > 128 / CHUNK * 2 * weights / 819e9
    assert found["bounds"]["update"] == found["programs"]["update"]["bound"]
    assert found["hbm_bytes"] == max(sum(parts.values()) for parts in found["phases"].values())
    assert found["fits"] is True
    assert found["full_rematerializations"] == 0
    assert result_text(found) == run.stdout.strip()


@pytest.mark.slow
@needs_libtpu
def test_ppo_trains_a_value_model_with_the_policy(tmp_path: Path) -> None:
    ahead = "--config.rl.rollouts_ahead=1"
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--stage=rl", "--config.rl.method=ppo", ahead)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert list(found["programs"])[4:] == ["logprobs", "reward model", "update"]
    residents = found["residents"]
    assert residents.keys() == {"policy", "optimizer", "reference", "policy of the next rollout", "reward model"}
    assert residents["policy of the next rollout"] == residents["policy"]
    head = 4 * (256 + 1)
    assert residents["reward model"] == pytest.approx(residents["reference"] + head, abs=2 * head)
    assert residents["policy"] == pytest.approx(2 * residents["reference"] + head, abs=2 * head)
    assert found["full_rematerializations"] == 0
    assert result_text(found) == run.stdout.strip()


@pytest.mark.slow
@needs_libtpu
def test_reward_models_compile_for_v5e(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--stage=reward_model")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["tokens"] == 16 * 640  # a pair in each row: 2 x (129 + 128) tokens, rounded up to a multiple of 128
    assert 1.2 < found["flops_ratio"] < 1.6
    assert found["full_rematerializations"] == 0
    assert result_text(found) == run.stdout.strip()
    run, adapted = aot(tmp_path, "--topology=v5e:2x2", "--stage=process_model")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert adapted["tokens"] == 16 * 264  # 129 + 128 tokens, a multiple of 8
    assert adapted["memory"]["arguments"] < 0.4 * found["memory"]["arguments"]
    assert adapted["flops"] < 0.45 * found["flops"]  # half of the rows, and no gradients of matrices


@pytest.mark.slow
@needs_libtpu
def test_rl_with_adapters_has_one_model_in_its_compute_dtype(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=v5e:2x2", "--stage=rl", "--config.rl.lora.rank=8")
    assert run.returncode == 0, run.stderr
    weights, norms = 2 * 7 * 256 * 256 + 2 * 512 * 256, 5 * 256
    adapters = 2 * 7 * 8 * (256 + 256)  # float32; those of q, k, v, gate, up and of o and down are split on one side
    residents = found["residents"]
    assert residents.keys() == {"base", "adapters", "optimizer"}  # the reference is the base
    assert residents["base"] == 2 * weights / 4 + 4 * norms
    assert adapters < residents["adapters"] < 4 * adapters
    assert residents["optimizer"] == pytest.approx(2 * residents["adapters"], rel=1e-3)
    parts = found["phases"]["sample"]
    assert parts["weights to decode with"] == 2 * (weights + adapters) + 4 * norms
    update = found["programs"]["update"]
    assert update["memory"]["arguments"] > sum(residents.values())
    assert update["memory"]["aliased"] < 2 * sum(residents[name] for name in ("adapters", "optimizer"))
    assert found["full_rematerializations"] == 0
    assert result_text(found) == run.stdout.strip()


@pytest.mark.slow
@needs_libtpu
def test_sft_with_adapters_has_no_product_of_gradients_of_matrices(tmp_path: Path) -> None:
    sft = {"sequence_length": 256, "batch_size": 16, "grad_accum_steps": 2, "steps": 100}
    flags = ["--topology=v5e:2x2", "--stage=sft", *(f"--config.sft.{name}={value}" for name, value in sft.items())]
    (_, whole), (run, found) = aot(tmp_path, *flags), aot(tmp_path, *flags, "--config.sft.lora.rank=8")
    assert run.returncode == 0, run.stderr
    assert found["memory"]["arguments"] < 0.4 * whole["memory"]["arguments"]
    assert found["flops"] < 0.85 * whole["flops"]
    assert 1.0 < found["flops_ratio"] < 2.0
    assert found["full_rematerializations"] == 0


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(("dtype", "weights", "size"), [("float32", "", 4), ("int8", "int8", 1)])
def test_the_sampler_alone(tmp_path: Path, dtype: str, weights: str, size: int) -> None:
    dtypes = (f"--config.rl.cache_dtype={dtype}", f"--config.rl.decode_weight_dtype={weights}")
    run, found = aot(tmp_path, "--topology=v5e:1x1", "--stage=sample", "--config.rl.max_new_tokens=2048", *dtypes)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert list(found["programs"]) == ["prefill", "decode", "decode, shortest cache", "grow"]
    cache, memory = 2 * 2 * 256 * size * (16 * 2048 + 4 * 192), found["programs"]["decode"]["memory"]
    assert cache < memory["arguments"] < 1.1 * cache  # which also are weights and the scales of int8
    assert memory["temporaries"] < cache / 8  # as many heads of keys as of queries: XLA copies and converts no ring
    assert "phase sample: " in run.stdout


@pytest.mark.slow
@needs_cuda
def test_a_small_config_compiles_for_gpus_on_two_hosts(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=h100:2x2", "--config.model.attention=xla", "--config.mesh.replica=2")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert found["fits"] is True
    assert (found["device_kind"], found["devices"]) == ("NVIDIA H100 80GB HBM3", 4)
    assert found["chip_bytes"] == int(0.75 * 84_942_979_072)
    assert 0.8 < found["flops_ratio"] < 1.7
    axes = {axis for row in found["collectives"] for axis in row["axes"]}
    assert axes == {"replica", "fsdp"}
    assert found["bound"]["network"] > 0 < found["bound"]["links"]  # gradients cross hosts, weights are gathered within
    assert "without the workspace of cuDNN" in run.stdout


@pytest.mark.slow
@needs_cuda
@needs_cudnn
def test_attention_of_cudnn_compiles_without_a_gpu(tmp_path: Path) -> None:
    run, found = aot(tmp_path, "--topology=a100-80:2")
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in found["kernels"]
    assert 1.3 < found["flops_ratio"] < 1.6


@pytest.mark.slow
@needs_libtpu
def test_a_decode_step_gathers_the_logits_and_not_the_output_matrix(tmp_path: Path) -> None:
    more = ("--stage=sample", "--config.mesh.tensor=2", "--config.mesh.fsdp=2", "--config.tokenizer.vocab_size=8192")
    run, found = aot(tmp_path, "--topology=v5e:2x2", *more)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    gathers = [each for each in found["programs"]["decode"]["collectives"] if each["kind"] == "all-gather"]
    assert gathers
    assert sum(each["bytes"] for each in gathers) < CHUNK * 8192 * 256 * 2 / 4  # a quarter of the matrix in each step


def test_what_rl_holds_in_each_phase() -> None:
    residents = {"policy": 10, "optimizer": 20, "reference": 10, "reward model": 11}
    needed = {"prefill": 12, "decode": 30, "grow": 8, "logprobs": 14, "reward model": 19, "update": 70}
    programs = {name: {"hbm_bytes": size} for name, size in needed.items()}
    memory = rl.SamplerMemory(weights=5, rest_of_state=20)
    found = rl.phases(programs, residents, memory, on_host=False)
    assert {name: sum(parts.values()) for name, parts in found.items()} == {
        "sample": 51 + 5 + 20 + 8,  # growing the last ring needs the most, and has no weights among its arguments
        "score": 51 + max(14 - 10, 19 - 11),
        "update": 51 + 70 - 30,
    }
    on_host = rl.phases(programs, residents, memory, on_host=True)
    assert {name: sum(parts.values()) for name, parts in on_host.items()} == {
        "sample": 41 + 5 + 28, "score": 41 + 10 + 8, "update": 41 + 40
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--topology=v5e:2x2", "--stage=sft"), "The config has no section 'sft'"),
        (("--topology=v5e:2x2", "--suggest"), "--suggest prints a table; remove --json and --page"),
        (("--topology=v5e:2x2", "--suggest", "--stage=sample"), "--suggest searches for pretrain, sft or rl"),
        (("--topology=v5e:2x2", "--suggest", "--stage=reward_model"), "--suggest searches for pretrain, sft or rl"),
        (("--topology=v5e:2x2", "--config.tokenizer.vocab_size=0"), "tokenizer.vocab_size is 0; it must be at least 1"),
        (("--topology=v5e:2x2", "--config.tokenizer.path=hf"), "give it as --config.model.vocab_size=N"),
        (("--topology=v5e:2x2", "--stage=rl", "--config.rl.method=dpo"), "rl.method=dpo learns from stored samples"),
        (("--topology=v5e:2x2", "--config.pretrain.bath_size=1"), "the nearest is 'pretrain.batch_size'"),
    ],
)  # fmt: skip
def test_an_invalid_command_line_is_one_error_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], sentence: str
) -> None:
    assert exit_code(lambda: main(["aot", *options(tmp_path, *flags)])) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert sentence in message
    assert message.count("\n") == 1


def test_the_command_exits_with_its_code(tmp_path: Path) -> None:
    run, _ = aot(tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: --topology is missing")
    assert run.stderr.count("\n") == 1
