"""The engine on this machine: work file by file in worker processes, and joining a cluster that is not there."""

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
def as_many_processes_as_cpus():
    """Other tests of this process may have asked for one."""
    engine.connect("", workers=0)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets worker processes import this module's functions, wherever the tests are started."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def tell(target: str, *words: str) -> None:
    with atomic_write(target) as file:
        file.write(f"{' '.join(words)} in {os.getpid()}")


def refuse_three(target: str, number: str) -> None:
    if number == "3":
        raise UserError(f"Record {number} is bad; fix it.")
    tell(target, number)


def fail(target: str) -> None:
    raise ArithmeticError(f"cannot make {Path(target).name}")


def take_time(target: str) -> None:
    time.sleep(0.3)
    tell(target)


def targets(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / f"{number}.txt" for number in range(count)]


def test_every_target_is_made_in_other_processes_from_its_own_arguments(tmp_path):
    paths = targets(tmp_path / "out", 5)
    engine.run_tasks(tell, [(str(path), path.stem, "é b") for path in paths], "telling")
    told = [path.read_text(encoding="utf-8").split(" in ") for path in paths]
    assert [words for words, _ in told] == [f"{number} é b" for number in range(5)]
    assert str(os.getpid()) not in {process for _, process in told}


def test_what_exists_is_not_made_again(tmp_path, capfd):
    paths = targets(tmp_path / "out", 4)
    paths[1].write_text("old")
    engine.run_tasks(tell, [(str(path), "new") for path in paths], "telling")
    assert [path.read_text().split()[0] for path in paths] == ["new", "old", "new", "new"]
    assert "telling: 4/4" in capfd.readouterr().err
    stamps = [path.stat().st_mtime_ns for path in paths]
    engine.run_tasks(fail, [(str(path),) for path in paths], "failing")
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    assert not capfd.readouterr().err


def test_a_sentence_for_the_user_comes_back_as_it_is(tmp_path):
    paths = targets(tmp_path / "out", 6)
    with pytest.raises(UserError) as error:
        engine.run_tasks(refuse_three, [(str(path), path.stem) for path in paths], "telling")
    assert str(error.value) == "Record 3 is bad; fix it."
    assert not paths[3].exists()


def test_any_other_error_ends_the_run(tmp_path):
    with pytest.raises(Exception, match="cannot make 0") as error:
        engine.run_tasks(fail, [(str(path),) for path in targets(tmp_path / "out", 1)], "failing")
    assert not isinstance(error.value, UserError)


def run_slowly(paths: list[str]) -> None:
    os.setsid()
    engine.run_tasks(take_time, [(path,) for path in paths], "taking time")


def test_a_killed_run_goes_on(tmp_path):
    paths = [str(path) for path in targets(tmp_path / "out", 8)]
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(paths,))
    process.start()
    while process.is_alive() and not list((tmp_path / "out").glob("*.txt")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.txt")}
    assert 0 < len(made) < 8
    engine.run_tasks(tell, [(path,) for path in paths], "telling")
    assert all(Path(path).exists() for path in paths)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items())


def test_only_the_files_of_the_query_stay_in_its_folder(tmp_path):
    """Daft itself leaves what is there; a file of a task that ran twice would give its rows twice."""
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
def test_a_cluster_that_does_not_answer_is_one_sentence(prefix):
    pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `cluster`")
    address = f"{prefix}127.0.0.1:{unused_port()}"
    with pytest.raises(UserError, match=f"^The Ray cluster {address} does not answer .*ray_address.$"):
        engine.connect(address)


@pytest.mark.parametrize("address", ["local", "10.0.0.1", "http://10.0.0.1:6379", "a:b"])
def test_a_wrong_address_is_named(address):
    pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `cluster`")
    with pytest.raises(UserError, match=f"^--config.corpus.ray_address={address} is no address of a Ray cluster; "):
        engine.connect(address)


def test_staying_on_this_machine_may_be_said_at_any_time():
    daft.from_pydict({"number": [1]}).collect()
    engine.connect("")
    engine.connect("")
    assert daft.from_pydict({"number": [1]}).count_rows() == 1
