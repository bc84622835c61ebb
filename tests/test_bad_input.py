"""Bad input on the command line: one sentence, exit code 2, nothing that a later run would take for finished work."""

import gzip
import json
import resource
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from dsmath_jax import main

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'tiny.py'}"
SMALL = [
    *runpy.run_path(str(Path(__file__).with_name("kill_resume.py")))["SMALL"][1:],  # without its --stages
    "--config.pretrain.steps=8",
    "--config.corpus.iterations=1",
]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Runs the program in this process: exit code, and what it says but for progress."""

    def run(workdir: Path, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["main.py", CONFIG, f"--workdir={workdir}", *SMALL, *arguments])
        code = main.run()
        lines = capsys.readouterr().err.splitlines(keepends=True)
        return code, "".join(line for line in lines if not line.endswith(" s left\n"))

    return run


def refused(result: tuple[int, str], sentence: str) -> None:
    code, error = result
    assert code == 2
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def files(folder: Path, inside: str = "**/*") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(inside) if path.is_file())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come as far as pre-training."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    stages = "--stages=corpus,tokenizer,pretrain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", CONFIG, f"--workdir={folder}", *SMALL, stages])
        assert main.run() == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def data(finished: Path, tmp_path: Path) -> Path:
    """A data folder such as the toy web's, to be spoilt."""
    return shutil.copytree(finished / "corpus" / "toy", tmp_path / "data")


def no_warc(data: Path) -> str:
    for path in data.glob("crawl/*.warc.gz"):
        path.unlink()
    return "No input file matches"


def text_for_warc(data: Path) -> str:
    (data / "crawl" / "toy-00000.warc.gz").write_text("these are notes on mathematics\n" * 100)
    return "toy-00000.warc.gz"


def gzipped_text_for_warc(data: Path) -> str:
    (data / "crawl" / "toy-00000.warc.gz").write_bytes(gzip.compress(b"these are notes on mathematics\n" * 100))
    return "toy-00000.warc.gz"


def empty_warc(data: Path) -> str:
    (data / "crawl" / "toy-00000.warc.gz").write_bytes(b"")
    return "toy-00000.warc.gz"


def empty_seeds(data: Path) -> str:
    (data / "crawl" / "seeds.txt").write_text("# none yet\n\n")
    return "seeds.txt holds no URL prefix"


def seeds_without_documents(data: Path) -> str:
    (data / "crawl" / "seeds.txt").write_text("https://nowhere.example/\n")
    return "No page read is below a prefix of"


def missing_seeds(data: Path) -> str:
    (data / "crawl" / "seeds.txt").unlink()
    return "seeds.txt is missing"


def broken_benchmark(data: Path) -> str:
    with open(data / "problems" / "test.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "cut o')
    return "test.jsonl, line 21: not a JSON object"


KNOWN_BEFORE = [no_warc, empty_seeds, missing_seeds, broken_benchmark]
SPOILT = [gzipped_text_for_warc, empty_warc, seeds_without_documents]


@pytest.mark.parametrize("spoil", KNOWN_BEFORE, ids=lambda spoil: spoil.__name__)
def test_spoilt_input_that_is_seen_before_the_run(spoil, data, command, tmp_path):
    sentence = spoil(data)
    arguments = ["--stages=corpus,tokenizer", f"--config.data_dir={data}"]
    refused(command(tmp_path / "run", *arguments), sentence)
    refused(command(tmp_path / "run", *arguments, "--dry_run"), sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_spoilt_input_of_the_corpus(spoil, data, command, tmp_path):
    sentence = spoil(data)
    arguments = ["--stages=corpus,tokenizer", f"--config.data_dir={data}"]
    refused(command(tmp_path / "run", *arguments), sentence)
    left = files(tmp_path / "run")
    assert left[:1] == [".lock"]
    assert "corpus/started.json" in left
    assert not [name for name in left if name.endswith(".tmp") or name.startswith("corpus/documents")]
    assert not {"corpus/manifest.json", "corpus/summary.json", "corpus/decisions.parquet"} & {*left}


@pytest.mark.slow
def test_a_spoilt_warc_is_read_after_its_repair(data, command, finished, tmp_path):
    whole = (data / "crawl" / "toy-00001.warc.gz").read_bytes()
    (data / "crawl" / "toy-00001.warc.gz").write_text("no WARC")
    arguments = ["--stages=corpus", f"--config.data_dir={data}"]
    refused(command(tmp_path / "run", *arguments), "toy-00001.warc.gz")
    (data / "crawl" / "toy-00001.warc.gz").write_bytes(whole)
    assert command(tmp_path / "run", *arguments) == (0, "")
    assert contents(tmp_path / "run", "corpus/documents/*") == contents(finished, "corpus/documents/*")


@pytest.mark.slow
def test_unreadable_warc_in_a_process_of_its_own(data, tmp_path):
    """The reading workers are cut off in their work: their end must not change the program's."""
    text_for_warc(data)
    program = [sys.executable, "-m", "dsmath_jax.main", CONFIG, f"--workdir={tmp_path / 'run'}", *SMALL]
    program += ["--stages=corpus", f"--config.data_dir={data}"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    refused((done.returncode, done.stderr), "toy-00000.warc.gz")
    assert done.stdout == "corpus: started\n"


def test_changed_config(run, command):
    before = files(run)
    refused(command(run, "--stages=corpus,tokenizer", "--config.corpus.min_ngram=4"), "corpus.min_ngram was 3, is 4")
    refused(command(run, "--stages=tokenizer,pretrain", "--config.seed=5"), "seed was 0, is 5")
    assert files(run) == before
    assert command(run, "--stages=tokenizer,pretrain") == (0, "")


def test_missing_earlier_stage(run, command):
    before = files(run)
    refused(command(run, "--stages=rl"), "Stage rl reads stage sft, which is not complete")
    refused(command(run, "--stages=sft,rl,evaluate,report", "--overwrite=corpus"), "add corpus to --stages")
    shutil.rmtree(run / "tokenizer")
    refused(command(run, "--stages=sft,rl,evaluate,report"), "Stage sft reads stage tokenizer, which is not complete")
    assert files(run) == [name for name in before if not name.startswith("tokenizer/")]


def test_a_checkpoint_of_other_shapes(run, command):
    sizes = json.loads((run / "pretrain" / "model.json").read_text())
    (run / "pretrain" / "model.json").write_text(json.dumps(sizes | {"hidden_size": 32}))
    refused(command(run, "--stages=sft"), "embedding has shape (1000, 16)")
    assert not (run / "sft" / "manifest.json").exists()
    assert not (run / "sft" / "params").exists()


def test_a_checkpoint_without_an_array(run, command):
    sizes = json.loads((run / "pretrain" / "model.json").read_text())
    (run / "pretrain" / "model.json").write_text(json.dumps(sizes | {"tie_word_embeddings": False}))
    refused(command(run, "--stages=sft"), "has the array head")
    assert not (run / "sft" / "manifest.json").exists()


def test_a_tokenizer_of_another_vocabulary(run, command, tmp_path):
    model = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 77, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(model))
    arguments = ["--stages=pretrain", f"--config.pretrain.init=hf:{tmp_path / 'model'}", "--overwrite=pretrain"]
    before = files(run)
    refused(command(run, *arguments), "The tokenizer has ids up to 999 and ")
    assert files(run) == before  # nothing was dropped for it


def contents(run: Path, pattern: str) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in files(run, pattern)}


def arrays(run: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in ocp.StandardCheckpointer().restore(run / "pretrain" / "params").items()}


# The disk fills up while the first checkpoint is written; then there is room.
FILL_UP = """
mount -t tmpfs -o size=50m none "$1" && cp -r "$2/corpus" "$2/tokenizer" "$1" || exit 90
mount -o remount,size=$(($(df --output=used -k "$1" | tail -1) + 520))k "$1"
"${@:3}"; echo "code $?" >&2
cp -r "$1/pretrain" "$1.full"
mount -o remount,size=50m "$1"
"${@:3}"; echo "code $?" >&2
cp -r "$1" "$1.out"
"""


@pytest.mark.slow
def test_a_full_disk_and_the_run_after_it(finished, tmp_path):
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes a user namespace with mounts, which is not allowed here")
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, "-m", "dsmath_jax.main", CONFIG, f"--workdir={disk}", *SMALL, "--stages=pretrain"]
    shell = ["unshare", "-rm", "bash", "-c", FILL_UP, "bash", str(disk), str(finished), *program]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    # Of several writes that fail at once, Orbax may leave tracebacks of the others between these lines and before them.
    messages = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith(("error: ", "code "))]
    assert messages[1:] == ["code 2", "code 0"], done.stderr
    assert messages[0].startswith(
        "error: A file cannot be written (No space left on device); free space and run the same"
    )
    full = files(tmp_path / "disk.full")
    assert "metrics.jsonl" in full, full
    assert not [name for name in full if name.endswith((".tmp", ".sha256.json", "manifest.json"))]

    assert contents(tmp_path / "disk.out", "*/metrics.jsonl") == contents(finished, "*/metrics.jsonl") != {}
    one, other = arrays(tmp_path / "disk.out"), arrays(finished)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_files_that_may_not_grow(finished, command, tmp_path):
    """The same through a limit on the size of files, which needs no privileges."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        result = command(tmp_path / "run", "--stages=corpus")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(result, "A file cannot be written (File too large)")
    assert not [name for name in files(tmp_path / "run") if name.endswith(".tmp") or "manifest" in name]
    assert command(tmp_path / "run", "--stages=corpus") == (0, "")
    assert contents(tmp_path / "run", "corpus/documents/*") == contents(finished, "corpus/documents/*")
