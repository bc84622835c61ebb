"""Reward models on eight devices score and train as on one; the real sampler gives the same rows after a kill."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.special_tokens import Encoded, encode_parts
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.reward_model import labels
from dsmath_jax.rl.reward_model.labels import write_rows
from dsmath_jax.rl.reward_model.model import RewardModel, scorer, with_reward_head
from dsmath_jax.rl.reward_model.settings import RewardModelSettings, SamplesSettings
from dsmath_jax.rl.reward_model.training import train
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh, to_host
from dsmath_jax.training.model_files import LanguageModel, build_model
from dsmath_jax.workdir import read_jsonl, write_jsonl
from tests.devices import cpu_devices

SIZES = {
    "vocab_size": 24, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 64, "compute_dtype": "float32",
}  # fmt: skip
MESH = {"replica": 2, "fsdp": 1, "context": 2, "tensor": 2}
ALPHABET = "^$\n 0123456789abcdefghij"


class Characters:
    """A tokenizer of single characters; ^ is BOS and $ is EOS, and what it does not know is a blank."""

    vocab_size, bos_id, eos_id, stop_ids = len(ALPHABET), 0, 1, (1,)
    control_ids = {"^": 0, "$": 1}  # noqa: RUF012
    special_tokens = {"bos_token": "^", "eos_token": "$"}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return [max(ALPHABET.find(character), 3) for character in text]

    def encode_marked(self, text: str) -> Encoded:
        return encode_parts(text, self.control_ids, lambda part, _: (self.encode(part), [*range(len(part))]))

    def decode(self, ids: Any) -> str:
        return "".join(ALPHABET[i] for i in ids if i > 1)


def compute(layout: Layout, folder: Path, training: bool) -> dict[str, np.ndarray]:
    """Returns scores of some completions and, with `training`, the head after a few steps and its held-out AUC."""
    model = build_model(ModelConfig(**SIZES), layout)
    params = jax.jit(lambda: with_reward_head(initial_params(Decoder(model.config), jax.random.key(1)), 16))()
    params["reward"]["kernel"] = jax.random.normal(jax.random.key(2), (16, 1))
    params = jax.device_put(params, layout.param_shardings(params))
    noise = np.random.default_rng(0)
    completions = [Completion(0, i, noise.integers(2, 24, 1 + 3 * i).tolist(), [], [], "eos") for i in range(7)]
    ends = [np.unique([len(c.tokens) // 2, len(c.tokens) - 1]) for c in completions]
    found = {"scores": np.concatenate(scorer(model, RowShapes(21, 3, 1, layout))(params, [[1, 2]], completions, ends))}
    if not training:
        return found
    rows = [
        {"prompt": [1, int(p)], "completion": [int(c)], "ends": [0], "labels": [float(c > 11)]}
        for p, c in noise.integers(2, 24, (60, 2))
    ]
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", rows)
    settings = RewardModelSettings(batch_size=8, steps=4, peak_lr=1e-2, warmup_steps=1)
    start = RewardModel(model, params)
    trained, summary = train(folder / "out", settings, start, layout, 0, [folder / "rows.jsonl"])
    found["kernel"], found["auc"] = to_host(trained.params["reward"]["kernel"]), np.array(summary["auc"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_eight_devices_score_and_train_as_one(tmp_path: Path, layout: Layout, training: bool) -> None:
    command = [sys.executable, __file__, str(tmp_path / "eight"), str(tmp_path / "eight.npz"), "training" * training]
    done = subprocess.run(command, env=cpu_devices(8), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, eight = compute(layout, tmp_path / "one", training), np.load(tmp_path / "eight.npz")
    assert np.std(one["scores"]) > 0.1
    for name, expected in one.items():
        np.testing.assert_allclose(eight[name], expected, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_the_sampler_gives_the_same_rows_after_a_kill(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "CHUNK", 1)
    model = build_model(ModelConfig(**SIZES), layout)
    params = jax.jit(lambda: initial_params(model, jax.random.key(1)))()
    params["embedding"] = params["embedding"] * jnp.float32(20)
    policy = LanguageModel(model, params, Chat(Characters()), layout)
    settings = SamplesSettings(kind="process", problems=5, samples=3, completions=2, max_new_tokens=16, decode_slots=6)
    records = [Record(f"x/{i}", str(i), "", "1") for i in range(5)]

    def write(path: Path, step: int = 0) -> list[dict]:
        write_rows(path, settings, policy, records, 0, step)
        return list(read_jsonl(path))

    whole = write(tmp_path / "rows.jsonl")
    assert len(whole) == 15
    assert any(len(row["ends"]) > 1 for row in whole)
    part = tmp_path / "killed" / "rows.jsonl.parts" / "00000000.jsonl"
    write_jsonl(part, [row for row in whole if row["problem"] < 2])
    assert write(tmp_path / "killed" / "rows.jsonl") == whole
    others = write(tmp_path / "other.jsonl", step=1)
    assert [row["completion"] for row in others] != [row["completion"] for row in whole]


if __name__ == "__main__":  # FOLDER FILE TRAINING: writes the results of `compute` on eight devices
    np.savez(sys.argv[2], **compute(Layout(make_mesh(MeshSettings(**MESH))), Path(sys.argv[1]), bool(sys.argv[3])))
