"""Checkpoints: what is damaged is told and not used, what does not fit is named, the newest two are kept."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from dsmath_jax.sharding import replicated, shardings_like
from dsmath_jax.training import checkpoint
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError


@pytest.fixture
def tree(mesh: Mesh) -> dict[str, Any]:
    plain = {"embedding": jnp.arange(6.0).reshape(3, 2), "final_norm": {"scale": jnp.ones(2, jnp.bfloat16)}}
    return jax.device_put(plain, shardings_like(plain, mesh))


def flip_a_byte(folder: Path) -> Path:
    """In the middle of the largest file, where the arrays are."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.relative_to(folder)


def test_a_training_state_comes_back_bit_by_bit(tmp_path: Path, tree: dict[str, Any], mesh: Mesh) -> None:
    state = TrainState(tree, optax.adamw(1e-3).init(tree))
    state = jax.device_put(state, shardings_like(state, mesh))
    checkpoint.save(tmp_path / "state", state)
    restored = checkpoint.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert one.dtype == other.dtype
        assert one.sharding == other.sharding
        np.testing.assert_array_equal(one, other)


def test_a_flipped_byte_is_told_and_the_checkpoint_before_is_used(
    tmp_path: Path, tree: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, jax.tree.map(lambda x, step=step: x + step, tree))
    assert checkpoints.restore_latest(tree)[1] == 10
    name = flip_a_byte(tmp_path / "00000010")
    with caplog.at_level(logging.WARNING):
        restored, step = checkpoints.restore_latest(tree)
    assert step == 5
    np.testing.assert_array_equal(restored["embedding"], tree["embedding"] + 5)
    assert f"00000010 is not used: its file {name} is not the one that was written" in caplog.text
    with pytest.raises(UserError, match="cannot be used: its file"):
        checkpoint.restore(tmp_path / "00000010", tree)


def test_a_checkpoint_without_its_hashes_or_a_file_does_not_count(tmp_path: Path, tree: dict[str, Any]) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore_latest(tree) == (tree, 0)
    for step in (1, 2):
        checkpoints.save(step, tree)
    (tmp_path / "00000002.sha256.json").unlink()
    assert checkpoints.latest() == 1
    next(p for p in sorted((tmp_path / "00000001").rglob("*")) if p.is_file()).unlink()
    assert checkpoints.latest() == 0
    with pytest.raises(UserError, match="cannot be used: it is not complete"):
        checkpoint.restore(tmp_path / "absent", tree)


def test_the_newest_two_are_kept(tmp_path: Path, tree: dict[str, Any]) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (5, 10, 15):
        checkpoints.save(step, tree)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000010", "00000010.sha256.json", "00000015", "00000015.sha256.json"
    ]  # fmt: skip


def test_what_does_not_fit_is_named(tmp_path: Path, tree: dict[str, Any], mesh: Mesh) -> None:
    checkpoint.save(tmp_path / "params", tree)
    wide = tree | {"embedding": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=replicated(mesh))}
    with pytest.raises(UserError, match=r"embedding has shape \(3, 2\) there and \(3, 4\) in the config's model"):
        checkpoint.restore(tmp_path / "params", wide)
    with pytest.raises(UserError, match=r"only the config's model has the array head"):
        checkpoint.restore(tmp_path / "params", tree | {"head": tree["embedding"]})
    with pytest.raises(UserError, match=r"only the checkpoint has the array final_norm/scale"):
        checkpoint.restore(tmp_path / "params", {"embedding": tree["embedding"]})
