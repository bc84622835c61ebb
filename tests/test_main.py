"""The command line: what it refuses, in one sentence and with exit code 2, and what a run prints and locks."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dsmath_jax import main, runner
from dsmath_jax.command_line import parse
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'tiny.py'}"
# The first two stages in seconds.
TOY = [
    "--stages=corpus,tokenizer",
    "--config.toy.pages=150",
    "--config.toy.problems.train=20",
    "--config.toy.problems.rl=60",
    "--config.toy.problems.test=20",
    "--config.corpus.iterations=1",
    "--config.corpus.fasttext.dim=8",
    "--config.corpus.fasttext.bucket=1000",
    "--config.tokenizer.vocab_size=1000",
]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Runs the program with some arguments in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        code = main.run()
        return code, *capsys.readouterr()

    return run


def start(*arguments: str) -> subprocess.Popen:
    program = [sys.executable, "-m", "dsmath_jax.main", *arguments]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_dry_run_tells_the_plan_and_makes_nothing(command, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.warc.gz").touch()
    given = [f"--config={ROOT / 'configs' / 'corpus.py'}", f"--config.data_dir={tmp_path / 'data'}", "--dry_run"]
    given += [f"--workdir={tmp_path / 'run'}", "--config.corpus.input=('*.gz',)", "--config.corpus.benchmarks=()"]
    code, out, error = command(*given)
    assert (code, error.count("\n")) == (2, 1)
    assert "seeds.txt is missing" in error
    assert out.startswith("corpus: refused: The seed file")
    (tmp_path / "data/seeds.txt").write_text("https://a.org/\n")
    code, out, _ = command(*given)
    assert code == 0
    assert "corpus: to do" in out
    assert "1 shards" in out
    assert "core-hours" in out
    assert not (tmp_path / "run").exists()


INVALID = {
    "no config": (["--workdir=W"], "--config is missing"),
    "no workdir": ([CONFIG], "--workdir is missing"),
    "no such config": (["--config=configs/none.py", "--workdir=W"], "There is no config file configs/none.py"),
    "a misspelt recipe": (["--config=tinny", "--workdir=W"], "(the nearest is 'tiny'); give a file or one of corpus, "),
    "a recipe as a file": (["--config=configs/tiny.py", "--workdir=W"], "of that name (the nearest is 'tiny')"),
    "a folder": (["--config=configs", "--workdir=W"], "There is no config file configs"),
    "unknown variant": ([f"{CONFIG}:small", "--workdir=W"], "tiny.py has no variant 'small'"),
    "unknown field": ([CONFIG, "--workdir=W", "--config.rl.stps=3"], "no field 'rl.stps' (the nearest is 'rl.steps')"),
    "unknown part": (
        [CONFIG, "--workdir=W", "--config.rll.steps=3"],
        "no field 'rll.steps' (the nearest is 'rl.steps')",
    ),
    "field first": (["--config.rl.stps=3", CONFIG, "--workdir=W"], "no field 'rl.stps' (the nearest is 'rl.steps')"),
    "no int": ([CONFIG, "--workdir=W", "--config.rl.steps=abc"], "rl.steps is 'abc'; it must be of the type int"),
    "float for int": ([CONFIG, "--workdir=W", "--config.rl.steps=1.5"], "rl.steps is 1.5; it must be of the type int"),
    "value apart": (
        [CONFIG, "--workdir=W", "--config.rl.steps", "abc"],
        "rl.steps is 'abc'; it must be of the type int",
    ),
    "no float": ([CONFIG, "--workdir=W", "--config.rl.kl_coef=x"], "rl.kl_coef is 'x'; it must be of the type float"),
    "no bool": (
        [CONFIG, "--workdir=W", "--config.model.tie_word_embeddings=2"],
        "model.tie_word_embeddings is '2'; it must be of the type bool",
    ),
    "no tuple of strings": (
        [CONFIG, "--workdir=W", "--config.rl.data=(3,)"],
        "rl.data[0] is 3; it must be of the type str",
    ),
    "no value": ([CONFIG, "--workdir=W", "--config.rl.steps"], "--config.rl.steps has no value; give it as"),
    "no value, a flag": ([CONFIG, "--config.rl.steps", "--workdir=W"], "--config.rl.steps has no value; give it as"),
    "a value for --noconfig": (
        [CONFIG, "--workdir=W", "--noconfig.rl.allow_overlap=1"],
        "takes no value; give --noconfig.rl.allow_overlap or",
    ),
    "a dict without a key": (
        [CONFIG, "--workdir=W", "--config.pretrain.mixture.=1"],
        "has no field 'pretrain.mixture.'",
    ),
    "a part that is no dict": (
        [CONFIG, "--workdir=W", "--config.rl=3"],
        "rl is 3; it must be of the type RLSettings | None",
    ),
    "a part that every run has": (
        [CONFIG, "--workdir=W", "--config.mesh=None"],
        "mesh is None; it must be of the type MeshSettings",
    ),
    "below a field": ([CONFIG, "--workdir=W", "--config.rl.steps.x=3"], "has no field 'rl.steps.x' (the nearest is"),
    "a bad mixture": (
        [CONFIG, "--workdir=W", "--config.pretrain.mixture.mine=-1"],
        "pretrain.mixture.mine is -1.0; it must be above 0",
    ),
    "an address": (
        [CONFIG, "--workdir=gs://bucket/run"],
        "--workdir is gs://bucket/run, an address, and object storage",
    ),
    "an address, dry run": ([CONFIG, "--workdir=gs://bucket/run", "--dry_run"], "is gs://bucket/run, an address, and"),
    "an address of data": ([CONFIG, "--workdir=W", "--config.data_dir=gs://b/d"], "data_dir is gs://b/d, an address,"),
    "an address of a run": ([CONFIG, "--workdir=W", "--config.start=s3://b/run"], "start is s3://b/run, an address,"),
    "an address of a model": (
        [CONFIG, "--workdir=W", "--config.sft.init=hf:gs://b/model"],
        "sft.init is hf:gs://b/model, an address,",
    ),
    "a large seed": (
        [CONFIG, "--workdir=W", "--config.seed=2147483648"],
        "seed is 2147483648; it must be at most 2,14",
    ),
    "a negative seed": ([CONFIG, "--workdir=W", "--config.seed=-1"], "seed is -1; it must be at least 0"),
    "unknown stage": ([CONFIG, "--workdir=W", "--stages=corpus,rll"], "Unknown stage 'rll' (the nearest is 'rl')"),
    "unknown stage to redo": ([CONFIG, "--workdir=W", "--overwrite=copus"], "Unknown stage 'copus' (the nearest is"),
    "redone but not run": ([CONFIG, "--workdir=W", "--stages=corpus", "--overwrite=rl"], "add rl to --stages"),
    "unknown flag": ([CONFIG, "--workdir=W", "--stage=rl"], "Unknown flag --stage (the nearest is 'stages')"),
    "flag of another type": ([CONFIG, "--workdir=W", "--distributed=maybe"], "--distributed=maybe has the wrong type"),
    "argument": ([CONFIG, "--workdir=W", "corpus"], "Unknown argument 'corpus'"),
    "earlier stage missing": ([CONFIG, "--workdir=W", "--stages=rl"], "Stage rl reads stage tokenizer"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_command_lines_are_one_error_message(name, command, tmp_path, monkeypatch):
    arguments, sentence = INVALID[name]
    monkeypatch.chdir(tmp_path)
    code, out, error = command(*arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert out == ""
    assert list(tmp_path.iterdir()) == []


BROKEN = {
    "syntax": ("def get_config(:\n", "fails with SyntaxError"),
    "no function": ("config = 1\n", "fails with KeyError: 'get_config'"),
    "own error": ("def get_config():\n    raise ValueError('no size fits')\n", "fails with ValueError: no size fits"),
    "nothing returned": ("def get_config():\n    pass\n", "get_config() must return a ConfigDict; got NoneType"),
    "a field missing": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'evaluate': {}})\n",
        "evaluate.tasks is missing; give it a value",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_config_files_are_one_error_message(name, command, tmp_path):
    text, sentence = BROKEN[name]
    (tmp_path / "recipe.py").write_text(text)
    code, _, error = command(f"--config={tmp_path / 'recipe.py'}", f"--workdir={tmp_path / 'run'}")
    assert (code, error.count("\n")) == (2, 1)
    assert sentence in error
    assert not (tmp_path / "run").exists()


def test_a_variant_of_a_config_that_has_none(command, tmp_path):
    (tmp_path / "recipe.py").write_text("def get_config():\n    raise AssertionError\n")
    code, _, error = command(f"--config={tmp_path / 'recipe.py'}:small", f"--workdir={tmp_path / 'run'}")
    assert (code, error) == (
        2,
        f"error: The config file {tmp_path / 'recipe.py'} has no variants; remove ':small'.\n",
    )


def test_fields_reach_the_stages(tmp_path, command, monkeypatch):
    """Of every type, before and after --config, and given as a variant's argument."""
    (tmp_path / "recipe.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(name):\n"
        "    fields = {'top_p': 0.5, 'data': ('a',), 'allow_overlap': True, 'cache_dtype': name}\n"
        "    return ConfigDict({'rl': fields})\n"
    )
    seen = []
    stage = runner.Stage("rl", lambda recipe, workdir: seen.append(recipe) or {}, ("rl",), lambda recipe: (), ())
    monkeypatch.setattr(main, "STAGES", (stage,))
    code, out, _ = command(
        "--config.seed=3", f"--config={tmp_path / 'recipe.py'}:bfloat16", f"--workdir={tmp_path / 'run'}",
        "--config.rl.top_p", "1", "--config.rl.data=('b','c')", "--noconfig.rl.allow_overlap", "--config.toy.pages=7",
    )  # fmt: skip
    assert (code, out.splitlines()[0]) == (0, "rl: started")
    [recipe] = seen
    assert (recipe.seed, recipe.rl.top_p, recipe.rl.data) == (3, 1.0, ("b", "c"))
    assert (recipe.rl.allow_overlap, recipe.rl.cache_dtype) == (False, "bfloat16")
    assert (recipe.toy, recipe.mesh, recipe.evaluate) == (None, None, None)  # the stage sees its own parts alone
    assert (tmp_path / "run" / "rl" / "manifest.json").is_file()


def test_help():
    with start("--help") as shown:
        out, error = shown.communicate()
    assert (shown.returncode, error) == (0, "")
    assert "dsmath run --config=" in out
    for flag in ("--workdir", "--stages", "--overwrite", "--[no]distributed", "--coordinator"):
        assert flag in out


@pytest.mark.slow
def test_two_workdirs_at_once_and_none_twice(tmp_path, command):
    """Also: a killed run releases its workdir; another run, killed and resumed, has the same files."""
    with (
        start(CONFIG, f"--workdir={tmp_path / 'a'}", *TOY) as first,
        start(CONFIG, f"--workdir={tmp_path / 'b'}", *TOY) as second,
    ):
        # A test that fails here must not wait for ever.
        guard = threading.Timer(120, lambda: (first.kill(), second.kill()))
        guard.start()
        assert first.stdout is not None
        assert first.stdout.readline() == "corpus: started\n"
        code, _, error = command(CONFIG, f"--workdir={tmp_path / 'a'}", *TOY)
        assert code == 2
        assert f"{tmp_path / 'a'} is in use by process {first.pid} on " in error
        first.kill()
        first.wait()
        out, error = second.communicate()
        guard.cancel()
    assert second.returncode == 0
    assert [line for line in error.splitlines() if not line.endswith(" s left")] == []  # progress, and nothing else
    assert [line.split()[:2] for line in out.splitlines()] == [
        [f"{stage}:", word] for stage in ("corpus", "tokenizer") for word in ("started", "done")
    ]

    code, _, error = command(CONFIG, f"--workdir={tmp_path / 'a'}", *TOY)
    assert code == 0, error
    a, b = (results(tmp_path / name) for name in "ab")
    assert a == b
    assert a


def results(workdir: Path) -> dict[str, bytes]:
    """What the finished stages left, but for the manifests with their seconds."""
    files = sorted(path for path in workdir.rglob("*") if path.is_file())
    kept = [path for path in files if path.name not in ("manifest.json", ".lock")]
    return {path.relative_to(workdir).as_posix(): path.read_bytes() for path in kept}


def test_processes_that_were_started_with_other_settings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values, recipe = parse(["main", f"--config={ROOT / 'configs' / 'tiny.py'}", "--workdir=run"])
    main.check_same_settings(recipe, values)
    for name, other in (("sft.peak_lr", "0.1"), ("--overwrite", "['sft']")):
        monkeypatch.setattr(main, "broadcast_json", lambda own, name=name, other=other: own | {name: other})
        with pytest.raises(UserError, match=rf"^{name} is .* in this process and .* in process 0; start all processes"):
            main.check_same_settings(recipe, values)
