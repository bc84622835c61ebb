"""The engine on this machine: tasks in worker processes, and joining a cluster that does not exist."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import daft
import pytest

from dsmath_jax.corpus import engine
from dsmath_jax.workdir import UserError, atomic_write

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_process_per_cpu():
    """Other tests of this process may have set one process."""
    engine.connect("", workers=0)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets worker processes import this module's functions from any working directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def write_words(target: str, *words: str) -> None:
    with atomic_write(target) as file:
        file.write(f"{' '.join(words)} in {os.getpid()}")


def refuse_three(target: str, number: str) -> None:
    if number == "3":
        raise UserError(f"Record {number} is bad; fix it.")
    write_words(target, number)


def fail(target: str) -> None:
    raise ArithmeticError(f"cannot make {Path(target).name}")


def take_time(target: str) -> None:
    time.sleep(0.3)
    write_words(target)


def targets(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / f"{number}.txt" for number in range(count)]


def test_every_target_is_written_in_another_process_from_its_arguments(tmp_path):
    paths = targets(tmp_path / "out", 5)
    engine.run_tasks(write_words, [(str(path), path.stem, "é b") for path in paths], "writing")
    contents = [path.read_text(encoding="utf-8").split(" in ") for path in paths]
    assert [words for words, _ in contents] == [f"{number} é b" for number in range(5)]
    assert str(os.getpid()) not in {process for _, process in contents}


def test_existing_targets_are_skipped(tmp_path, capfd):
    paths = targets(tmp_path / "out", 4)
    paths[1].write_text("old")
    engine.run_tasks(write_words, [(str(path), "new") for path in paths], "writing")
    assert [path.read_text().split()[0] for path in paths] == ["new", "old", "new", "new"]
    assert "writing: 4/4" in capfd.readouterr().err
    stamps = [path.stat().st_mtime_ns for path in paths]
    engine.run_tasks(fail, [(str(path),) for path in paths], "failing")
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    assert not capfd.readouterr().err


def test_a_user_error_keeps_its_message(tmp_path):
    paths = targets(tmp_path / "out", 6)
    with pytest.raises(UserError) as error:
        engine.run_tasks(refuse_three, [(str(path), path.stem) for path in paths], "writing")
    assert str(error.value) == "Record 3 is bad; fix it."
    assert not paths[3].exists()


def test_any_other_error_ends_the_run(tmp_path):
    with pytest.raises(Exception, match="cannot make 0") as error:
        engine.run_tasks(fail, [(str(path),) for path in targets(tmp_path / "out", 1)], "failing")
    assert not isinstance(error.value, UserError)


def run_slowly(paths: list[str]) -> None:
    os.setsid()
    engine.run_tasks(take_time, [(path,) for path in paths], "taking time")


def test_a_killed_run_resumes(tmp_path):
    paths = [str(path) for path in targets(tmp_path / "out", 8)]
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(paths,))
    process.start()
    while process.is_alive() and not list((tmp_path / "out").glob("*.txt")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.txt")}
    assert 0 < len(stamps) < 8
    engine.run_tasks(write_words, [(path,) for path in paths], "writing")
    assert all(Path(path).exists() for path in paths)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_only_the_files_of_the_query_stay_in_its_folder(tmp_path):
    """Daft itself leaves other files; a file of a task that ran twice would give its rows twice."""
    frame = daft.from_pydict({"number": [1, 2, 3]})
    frame.write_parquet(str(tmp_path / "out"))
    engine.write_parquet(frame, tmp_path / "out")
    assert daft.read_parquet(f"{tmp_path}/out/*.parquet").sort("number").to_pydict() == {"number": [1, 2, 3]}


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_cluster_needs_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as error:
        engine.connect("auto")
    assert str(error.value) == "The Ray cluster auto needs the package ray: pip install 'dsmath-jax[cluster]'."


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_a_one_sentence_error(prefix):
    pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `cluster`")
    address = f"{prefix}127.0.0.1:{unused_port()}"
    with pytest.raises(UserError, match=f"^The Ray cluster {address} does not answer .*ray_address.$"):
        engine.connect(address)


@pytest.mark.parametrize("address", ["local", "10.0.0.1", "http://10.0.0.1:6379", "a:b"])
def test_a_wrong_address_is_named(address):
    pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `cluster`")
    with pytest.raises(
        UserError, match=f"^--config.corpus.ray_address={address} is not the address of a Ray cluster; "
    ):
        engine.connect(address)


def test_this_machine_may_be_chosen_at_any_time():
    daft.from_pydict({"number": [1]}).collect()
    engine.connect("")
    engine.connect("")
    assert daft.from_pydict({"number": [1]}).count_rows() == 1
