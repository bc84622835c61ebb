"""Shards of packed rows: the same whoever makes them, whole or not there, made once."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from backports import zstd

from dsmath_jax.data import rows, shards, sources, workers
from dsmath_jax.data.tokenizer import load
from dsmath_jax.workdir import UserError, remove_temporaries, write_json

ROOT = Path(__file__).parents[2]
LENGTH = 15


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer whose tokens are bytes."""
    byte = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
    byte.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    byte.model = tokenizers.models.BPE(vocab={c: i for i, c in enumerate(["<s>", "</s>", *alphabet])}, merges=[])
    byte.add_special_tokens(["<s>", "</s>"])
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    byte.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    return folder


TEXTS = [[f"file {file}, document {number}: " + "x" * (number % 37) for number in range(60)] for file in range(4)]


@pytest.fixture
def source(tmp_path: Path) -> sources.TextSource:
    folder = tmp_path / "data" / "arxiv"
    folder.mkdir(parents=True)
    for number, texts in enumerate(TEXTS):
        lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
        (folder / f"arXiv_{number:03d}.jsonl.zst").write_bytes(zstd.compress(lines))
    return sources.find("arxiv", tmp_path / "data", tmp_path)


def plan(tmp_path: Path, source: sources.TextSource, tokenizer: Path, name: str = "arxiv") -> list[shards.Shard]:
    return shards.plan(tmp_path / name, source, tokenizer, LENGTH, held_out=8)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decoded(folder: Path, tokenizer: Path) -> list[tuple[str, str]]:
    """(id, text) of what is in a folder of rows, its pieces joined."""
    found: dict[str, list[int]] = {}
    stored = rows.Rows(folder, LENGTH)
    for i in range(len(stored)):
        packed = stored[i]
        for segment, one in enumerate(packed.ids, 1):
            found.setdefault(one, []).extend(packed.row[0][packed.row[1] == segment].tolist())
    one = load(tokenizer)
    for ids in found.values():
        assert (ids[0], ids[-1]) == (one.bos_id, one.eos_id)
    return [(name, one.decode(ids)) for name, ids in found.items()]


def test_every_document_is_in_the_rows_or_held_out(tmp_path, source, tokenizer):
    shards.write(plan(tmp_path, source, tokenizer))
    learned, apart = (decoded(tmp_path / name, tokenizer) for name in ("arxiv", "arxiv.held-out"))
    expected = [
        (f"arXiv_{f:03d}.jsonl.zst:{n + 1}", text) for f, texts in enumerate(TEXTS) for n, text in enumerate(texts)
    ]
    held = [expected[60 * file + shards.HELD_OUT_EVERY - 1] for file in range(4)]
    assert apart == held
    assert learned == [one for one in expected if one not in held]
    stored = rows.Rows(tmp_path / "arxiv", LENGTH)
    padded = [i for i in range(len(stored)) if not stored[i].row[1].all()]
    assert len(padded) <= 4  # the last row of each file


def test_no_more_is_held_out_than_the_evaluation_reads(tmp_path, source, tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "HELD_OUT_EVERY", 2)
    shards.write(plan(tmp_path, source, tokenizer))
    assert 8 <= len(rows.Rows(tmp_path / "arxiv.held-out", LENGTH)) <= 8 + 4 * 4  # a document of each shard goes beyond
    shards.write(shards.plan(tmp_path / "none", source, tokenizer, LENGTH, held_out=0))
    assert shards.held_out_folders([tmp_path / "none", tmp_path / "arxiv"]) == [tmp_path / "arxiv.held-out"]


def test_workers_and_hosts_make_the_same_files(tmp_path, source, tokenizer, monkeypatch):
    shards.write(plan(tmp_path, source, tokenizer))
    for host in range(3):
        shards.write(plan(tmp_path, source, tokenizer, "hosts"), host, 3)
    monkeypatch.setattr(shards, "IN_PROCESS_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    shards.write(plan(tmp_path, source, tokenizer, "workers"))
    expected = contents(tmp_path / "arxiv")
    assert len(expected) == 4
    for name in ("hosts", "workers"):
        assert contents(tmp_path / name) == expected
        assert contents(tmp_path / f"{name}.held-out") == contents(tmp_path / "arxiv.held-out")


def test_existing_shards_are_not_rewritten(tmp_path, source, tokenizer, monkeypatch):
    shards.write(plan(tmp_path, source, tokenizer))
    before = contents(tmp_path / "arxiv")
    (tmp_path / "arxiv" / rows.shard_name(2)).unlink()
    made = []
    real = shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda shard: (made.append(shard.path.name), real(shard)))
    shards.write(plan(tmp_path, source, tokenizer))
    assert made == [rows.shard_name(2)]
    assert contents(tmp_path / "arxiv") == before


def test_a_broken_file_ends_the_work_and_leaves_no_shard_of_it(tmp_path, source, tokenizer, monkeypatch):
    with open(source.root / "arXiv_001.jsonl.zst", "ab") as file:
        file.write(zstd.compress(b'{"text": 1}\n'))
    monkeypatch.setattr(shards, "IN_PROCESS_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(UserError, match=r"arXiv_001.jsonl.zst, line 61: the field 'text'"):
        shards.write(plan(tmp_path, source, tokenizer))
    assert "00001.array_record" not in contents(tmp_path / "arxiv")
    assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]


KILLED = """
import os, pickle, signal, sys
from dsmath_jax.data import packing, shards
real = packing.concat_and_chunk
def killed(examples, length):
    for number, packed in enumerate(real(examples, length)):
        if number == 40 and "00002" in current:
            os.kill(os.getpid(), signal.SIGKILL)
        yield packed
packing.concat_and_chunk = killed
for shard in pickle.load(sys.stdin.buffer):
    current = shard.path.name
    shards.write([shard])
"""


def test_a_killed_process_leaves_whole_shards_and_the_next_one_makes_the_others(tmp_path, source, tokenizer):
    planned = plan(tmp_path, source, tokenizer, "killed")
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, input=pickle.dumps(planned), cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {name for name in contents(tmp_path / "killed") if not name.endswith(".tmp")}
    assert left == {rows.shard_name(0), rows.shard_name(1)}
    remove_temporaries(tmp_path / "killed")
    shards.write(planned)
    shards.write(plan(tmp_path, source, tokenizer))
    assert contents(tmp_path / "killed") == contents(tmp_path / "arxiv")
    assert contents(tmp_path / "killed.held-out") == contents(tmp_path / "arxiv.held-out")


def test_a_changed_list_of_files_is_refused(tmp_path, source, tokenizer):
    for _ in range(2):
        shards.check_file_list(plan(tmp_path, source, tokenizer))
    (source.root / "arXiv_0005.jsonl.zst").write_bytes(zstd.compress(b'{"text": "one more"}'))
    changed = sources.find("arxiv", source.root.parent, tmp_path)
    with pytest.raises(UserError, match=r"files in .*arxiv are not those that .*arxiv was started with; restore them"):
        shards.check_file_list(plan(tmp_path, changed, tokenizer))


WAITING = """
import sys, time
from dsmath_jax.data import workers
if __name__ == "__main__":
    list(workers.run(time.sleep, [0, 0, 600, 600], "waiting", 2))
"""


def workers_of(process: int) -> list[int]:
    """Its worker processes that watch it: they have a thread more than the one they work in."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    spawned = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [child for child in spawned if len(list(Path(f"/proc/{child}/task").iterdir())) > 1]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    working: list[int] = []
    for _ in range(600):
        working = workers_of(parent.pid)
        if len(working) == 2:
            break
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(working) == 2
    for _ in range(300):
        if not any(map(alive, working)):
            return
        time.sleep(0.1)
    pytest.fail("the workers go on")


def test_results_come_in_the_order_of_the_tasks():
    assert list(workers.run(abs, [-3, -1, -2], "working", 1)) == [3, 1, 2]
    assert list(workers.run(abs, [], "working")) == []
    assert np.isfinite(list(workers.run(abs, [-1.0], "working"))).all()
