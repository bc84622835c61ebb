"""Checkpoints: written in the background, hashed, kept in number; damaged ones are reported and not used."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.sharding import Layout, make_mesh
from dsmath_jax.training import checkpoint
from dsmath_jax.training.step import TrainState
from dsmath_jax.workdir import UserError, full_disk
from tests.devices import cpu_devices

ROOT = Path(__file__).parents[2]
COMPLETE = ["00000010", "00000010.sha256.json", "00000015", "00000015.sha256.json"]


@pytest.fixture
def tree(layout: Layout) -> dict[str, Any]:
    plain = {"embedding": jnp.arange(6.0).reshape(3, 2), "final_norm": {"scale": jnp.ones(2, jnp.bfloat16)}}
    return jax.device_put(plain, layout.param_shardings(plain))


def flip_a_byte(folder: Path) -> Path:
    """In the middle of the largest file, where the arrays are."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.relative_to(folder)


def test_a_training_state_comes_back_bit_by_bit(tmp_path: Path, tree: dict[str, Any], layout: Layout) -> None:
    state = TrainState(tree, optax.adamw(1e-3).init(tree))
    state = jax.device_put(state, layout.param_shardings(state))
    checkpoint.save(tmp_path / "state", state)
    restored = checkpoint.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert one.dtype == other.dtype
        assert one.sharding == other.sharding
        np.testing.assert_array_equal(one, other)


def test_a_flipped_byte_is_reported_and_the_previous_checkpoint_is_used(
    tmp_path: Path, tree: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, jax.tree.map(lambda x, step=step: x + step, tree))
    checkpoints.wait()
    name = flip_a_byte(tmp_path / "00000010")
    with caplog.at_level(logging.WARNING):
        restored, step = checkpoints.restore_latest(jax.tree.map(jnp.copy, tree))
    assert step == 5
    np.testing.assert_array_equal(restored["embedding"], tree["embedding"] + 5)
    assert f"00000010 is not used: its file {name} does not match its hash" in caplog.text
    with pytest.raises(UserError, match="cannot be used: its file"):
        checkpoint.restore(tmp_path / "00000010", tree)


def test_a_checkpoint_without_its_hashes_or_a_file_does_not_count(tmp_path: Path, tree: dict[str, Any]) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore_latest(tree) == (tree, 0)
    for step in (1, 2):
        checkpoints.save(step, tree)
    checkpoints.wait()
    (tmp_path / "00000002.sha256.json").unlink()
    assert checkpoints.latest() == 1
    next(p for p in sorted((tmp_path / "00000001").rglob("*")) if p.is_file()).unlink()
    assert checkpoints.latest() == 0
    with pytest.raises(UserError, match="cannot be used: it is not complete"):
        checkpoint.restore(tmp_path / "absent", tree)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [flip, lambda path: path.write_text("{}"), lambda path: path.write_text("[]")])
def test_a_damaged_list_of_hashes_is_damage(tmp_path: Path, tree: dict[str, Any], spoil: Any) -> None:
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, tree)
    spoil(tmp_path / "00000002.sha256.json")
    assert checkpoint.Checkpoints(tmp_path).latest() == 1


def test_a_file_that_came_later_is_damage(tmp_path: Path, tree: dict[str, Any]) -> None:
    checkpoint.save(tmp_path / "params", tree)
    assert checkpoint.why_invalid(tmp_path / "params") is None
    (tmp_path / "params" / "d" / "more").parent.mkdir(exist_ok=True)
    (tmp_path / "params" / "d" / "more").touch()
    assert checkpoint.why_invalid(tmp_path / "params") == "it has a file without a hash"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path, tree: dict[str, Any]) -> None:
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (5, 10, 15):
            checkpoints.save(step, tree)
    assert names(tmp_path) == COMPLETE
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(20, tree)
    assert names(tmp_path) == ["00000020", "00000020.sha256.json"]
    with pytest.raises(UserError, match="keep is 0; it must be at least 1"):
        checkpoint.Checkpoints(tmp_path, keep=0)


def test_a_damaged_one_does_not_count_among_those_kept(tmp_path: Path, tree: dict[str, Any]) -> None:
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (5, 10, 13):
            checkpoints.save(step, tree)
    flip_a_byte(tmp_path / "00000013")
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 10
        checkpoints.save(15, tree)
    assert names(tmp_path) == COMPLETE


def test_a_state_is_saved_as_it_was_when_its_buffers_are_used_again(tmp_path: Path, layout: Layout) -> None:
    shapes = {"embedding": (1000, 300), "layers": {"q": (2, 64, 4, 4)}, "final_norm": {"scale": (3,)}}
    state = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    state = jax.device_put(state, layout.param_shardings(state))
    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 5):
            state = double(state)
            checkpoints.save(step, state)
            for _ in range(20):  # the buffers change while the files are written
                state = double(state)
            state = jax.tree.map(lambda x, step=step: jnp.full_like(x, 2.0**step), state)
    for step in range(1, 5):
        for leaf in jax.tree.leaves(checkpoint.restore(tmp_path / f"{step:08d}", state)):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, 2.0**step))


def test_a_save_runs_in_the_background_and_older_ones_are_kept_meanwhile(
    tmp_path: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, tree)
        checkpoints.wait()
        hash_file = checkpoint.hash_file
        monkeypatch.setattr(checkpoint, "hash_file", lambda path: gate.wait(60) and hash_file(path))
        checkpoints.save(2, tree)  # returns, although no hash can be made yet
        checkpoints.check()
        assert {"00000001", "00000001.sha256.json"} <= set(names(tmp_path))
        assert "00000002.sha256.json" not in names(tmp_path)
        gate.set()
    assert names(tmp_path) == ["00000002", "00000002.sha256.json"]


def test_a_failed_background_save_is_reported_and_costs_no_checkpoint(
    tmp_path: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, tree)
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "hash_file", full)
        checkpoints.save(2, tree)
        with pytest.raises(OSError, match="No space left") as error:
            checkpoints.save(3, tree)
    assert full_disk(error.value) == os.strerror(errno.ENOSPC)
    again = checkpoint.Checkpoints(tmp_path, keep=1)
    assert again.latest() == 1
    with again:
        again.save(2, tree)
    assert names(tmp_path) == ["00000002", "00000002.sha256.json"]


def test_the_error_of_a_save_is_raised_without_waiting_for_the_next(
    tmp_path: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "hash_file", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, tree)
    with pytest.raises(OSError, match="broken"):
        [(checkpoints.check(), time.sleep(0.01)) for _ in range(6000)]


# argv: folder, moment. Saves twice and is killed in the second save.
KILLED = """
import os, signal, sys
from pathlib import Path
import jax.numpy as jnp
from dsmath_jax.training import checkpoint

folder, moment = Path(sys.argv[1]), sys.argv[2]
checkpoints = checkpoint.Checkpoints(folder, keep=1)
checkpoints.save(1, {"embedding": jnp.full((64, 64), 1.0)})
checkpoints.wait()
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "writing":
    checkpoint._finish_save = kill
elif moment == "hashing":
    checkpoint.hash_file = kill
elif moment == "dropping":
    finish = checkpoint._finish_save
    checkpoint._finish_save = lambda *arguments: (finish(*arguments), setattr(checkpoint, "remove", kill))
checkpoints.save(2, {"embedding": jnp.full((64, 64), 2.0)})
checkpoints.wait()
"""


@pytest.mark.parametrize(("moment", "found"), [("writing", 1), ("hashing", 1), ("dropping", 2)])
def test_a_kill_in_the_middle_of_a_save(tmp_path: Path, moment: str, found: int) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    done = subprocess.run(command, env=environment, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        like = jax.device_put({"embedding": jnp.zeros((64, 64))}, Layout(make_mesh()).replicated)
        state, step = checkpoints.restore_latest(like)
        assert step == found
        np.testing.assert_array_equal(state["embedding"], np.full((64, 64), found))
        checkpoints.save(3, state)
    assert names(tmp_path) == ["00000003", "00000003.sha256.json"]  # what the kill left is swept


# argv: folder. Reads `one`, which one device wrote, onto two meshes of eight, and writes what it read on the second.
EIGHT = """
import sys
from pathlib import Path
import jax, numpy as np
from dsmath_jax.sharding import Layout, MeshSettings, make_mesh
from dsmath_jax.training import checkpoint

folder = Path(sys.argv[1])
shapes = {"embedding": jax.ShapeDtypeStruct((64, 24), np.float32), "head": jax.ShapeDtypeStruct((24, 64), np.float32)}
assert jax.device_count() == 8
for source, target, sizes in (("one", "eight", {"fsdp": 4, "tensor": 2}), ("eight", "other", {"fsdp": 2, "tensor": 4})):
    layout = Layout(make_mesh(MeshSettings(**sizes)))
    tree = checkpoint.restore(folder / source, layout.abstract(shapes))
    assert {leaf.addressable_shards[0].data.size for leaf in tree.values()} == {64 * 24 // 8}
    checkpoint.save(folder / target, tree)
"""


def test_restored_onto_other_meshes(tmp_path: Path, layout: Layout) -> None:
    noise = np.random.default_rng(0)
    tree = {"embedding": noise.normal(size=(64, 24)), "head": noise.normal(size=(24, 64))}
    tree = jax.device_put({name: x.astype(np.float32) for name, x in tree.items()}, layout.replicated)
    checkpoint.save(tmp_path / "one", tree)
    subprocess.run([sys.executable, "-c", EIGHT, str(tmp_path)], env=cpu_devices(8), timeout=120, check=True)
    for name in ("eight", "other"):
        again = checkpoint.restore(tmp_path / name, tree)
        for path, leaf in tree.items():
            np.testing.assert_array_equal(again[path], leaf)


def test_a_mismatch_is_named(tmp_path: Path, tree: dict[str, Any], layout: Layout) -> None:
    checkpoint.save(tmp_path / "params", tree)
    wide = tree | {"embedding": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=layout.replicated)}
    with pytest.raises(UserError, match=r"embedding has shape \(3, 2\) there and \(3, 4\) in the config's model"):
        checkpoint.restore(tmp_path / "params", wide)
    with pytest.raises(UserError, match=r"only the config's model has the array head"):
        checkpoint.restore(tmp_path / "params", tree | {"head": tree["embedding"]})
    with pytest.raises(UserError, match=r"only the checkpoint has the array final_norm/scale"):
        checkpoint.restore(tmp_path / "params", {"embedding": tree["embedding"]})
