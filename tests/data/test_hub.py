"""Models of the Hub: which files are downloaded, when, and what counts as a folder of the user's."""

from pathlib import Path

import pytest

from dsmath_jax.data import datasets
from dsmath_jax.data import hub as hubs
from dsmath_jax.training import model_files
from dsmath_jax.training.model_files import local_checkpoint
from dsmath_jax.workdir import UserError

MODEL = {
    "config.json": b"{}", "model-00001-of-00001.safetensors": b"1", "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "chat_template.jinja": b"", "generation_config.json": b"",
}  # fmt: skip
OTHERS = {"consolidated.safetensors": b"1", "pytorch_model.bin": b"1", "onnx/config.json": b"{}", "LICENSE": b""}


def test_a_model_is_downloaded_once(server, hub, tmp_path: Path) -> None:
    hub("some/model", MODEL | OTHERS, kind="models")
    assert hubs.missing_model("some/model", tmp_path)
    folder = hubs.fetch_model("some/model", tmp_path)
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {*MODEL}
    assert hubs.missing_model("some/model", tmp_path) is None
    asked = len(server.asked)
    assert local_checkpoint("hf:some/model", tmp_path) == f"hf:{tmp_path}/some/model"
    assert len(server.asked) == asked
    (folder / "tokenizer.json").unlink()  # as after a kill
    assert hubs.missing_model("some/model", tmp_path)
    assert hubs.fetch_model("some/model", tmp_path) == folder
    assert (folder / "tokenizer.json").is_file()


def test_each_revision_has_its_folder(server, hub, tmp_path: Path) -> None:
    hub("me/math", MODEL, kind="models")
    hub("me/math", MODEL | {"config.json": b"{}"}, "bead", kind="models", revision="v1.0")
    hub("me/math", {"train.jsonl": b'{"question": "?"}'}, "feed", revision="v1.0")
    folder = hubs.fetch_model("me/math@v1.0", tmp_path)
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (hubs.fetch_model("me/math", tmp_path) / "config.json").read_bytes() == MODEL["config.json"]
    assert folder == tmp_path / "me" / "math@v1.0"
    assert [record.id for record in datasets.load("hf:me/math@v1.0/train", tmp_path)] == ["me/math@v1.0/train/0"]
    with pytest.raises(UserError, match="404"):
        hubs.fetch_model("me/math@v2", tmp_path)


def test_the_hub_gets_the_users_token_and_hosts_that_it_redirects_to_do_not(
    server, hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub("some/model", MODEL, kind="models")
    elsewhere = f"{server.address.replace('127.0.0.1', 'localhost')}/elsewhere"
    server.files["/elsewhere"] = MODEL[min(MODEL)]  # of the first file
    server.behaviors = [{}, {"status": 302, "headers": {"Location": elsewhere}}]
    hubs.fetch_model("some/model", tmp_path)
    assert server.tokens == ["Bearer hf_mine", "Bearer hf_mine", None, *["Bearer hf_mine"] * (len(MODEL) - 1)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_refused_at_once(server, hub, tmp_path: Path, status: int) -> None:
    hub("some/model", MODEL, kind="models")
    server.behaviors = [{"status": status, "headers": {"X-Error-Message": "Access to it is restricted."}}]
    with pytest.raises(UserError, match=r"\(Access to it is restricted\.\); check the name, or ask for access"):
        hubs.fetch_model("some/model", tmp_path)
    assert len(server.asked) == 1


def test_a_model_of_bin_files_is_refused_before_its_download(server, hub, tmp_path: Path) -> None:
    hub("some/model", {"config.json": b"{}", "pytorch_model.bin": b""}, kind="models")
    with pytest.raises(UserError, match=r"some/model has its weights as \.bin files only; load it with transformers"):
        hubs.fetch_model("some/model", tmp_path)
    assert len(server.asked) == 1


def test_only_process_0_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files.jax, "process_index", lambda: 1)
    monkeypatch.setattr(hubs, "fetch_model", lambda *_: pytest.fail("process 1 downloads"))
    waited: list[str] = []
    monkeypatch.setattr(model_files, "barrier", waited.append)
    local_checkpoint("hf:some/model", tmp_path)
    assert waited == ["models of the Hub"]


@pytest.mark.parametrize("first", ["model", "data set"])
def test_a_model_and_a_data_set_of_one_name(server, hub, tmp_path: Path, first: str) -> None:
    hub("me/math", MODEL, kind="models")
    hub("me/math", {"train.jsonl": b'{"question": "?"}', "config.json": b"[]"})
    if first == "model":
        hubs.fetch_model("me/math", tmp_path)
    assert [record.question for record in datasets.load("hf:me/math/train", tmp_path)] == ["?"]
    assert (hubs.missing_model("me/math", tmp_path) is None) == (first == "model")
    assert (hubs.fetch_model("me/math", tmp_path) / "config.json").read_bytes() == MODEL["config.json"]


def test_folders_are_no_models_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    for name in ("models/mine", "model", "a/b/c", str(tmp_path / "x"), "../x", "/x"):
        assert hubs.missing_model(name, tmp_path) is None
    assert local_checkpoint("runs/tiny/sft", tmp_path) == "runs/tiny/sft"
    assert local_checkpoint(f"hf:{tmp_path}/models/mine", tmp_path) == f"hf:{tmp_path}/models/mine"


def test_a_model_that_the_hub_lacks(server, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"model \S+/some/model is missing; correct hf:some/model, .*/api/models/some/model/\S+ answers 404",
    ):
        hubs.fetch_model("some/model", tmp_path)
