"""Data sets and models of the Hugging Face Hub, by name, in folders of their names in the data folder.

    hf:OWNER/NAME/SPLIT                  a split of a data set: the files that have it as a word of their path
    hf:OWNER/NAME/CONFIG/SPLIT           the same below a folder of the repository
    hf:OWNER/NAME/FOLDER/FILE.jsonl      one file
    hf:OWNER/NAME                        a model; hf:FOLDER is one in a folder

OWNER/NAME@REVISION names a branch, a tag or a commit hash of the repository, with %2F for a slash. Without it, the
branch is main.

`downloads` says what a mirror is, and how files are downloaded and verified.
"""

import dataclasses
import fnmatch
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from dsmath_jax.data.documents import RECORDS, file_format, stem
from dsmath_jax.data.downloads import Repository, fetch, is_downloaded
from dsmath_jax.workdir import UserError

HUGGING_FACE = "hf:"  # before the name of a data set or model of the Hub, and before a folder in Hugging Face's format
REPOSITORY = re.compile(r"[^/@]+/[^/@]+(@[^/@]+)?")  # OWNER/NAME or OWNER/NAME@REVISION
TRAIN = "train"  # also the split of a repository whose files name none
SPLITS = (TRAIN, "test", "validation", "valid", "dev", "eval")
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
MODEL_FILES = (
    "config.json", "model*.safetensors*", "*token*.json", "*.model", "chat_template.*", "generation_config.json"
)  # fmt: skip

# Public data sets of instructions, by short names.
PUBLIC: dict[str, Repository] = {
    "mathinstruct": Repository("TIGER-Lab/MathInstruct", "MathInstruct.json", "MIT; its parts have their own"),
    "numina_tir": Repository("AI-MO/NuminaMath-TIR", "data/train-*.parquet", "Apache-2.0"),
    "belle_math_zh": Repository("BelleGroup/school_math_0.25M", "school_math_0.25M.json", "GPL-3.0, for research"),
}


@dataclasses.dataclass(frozen=True)
class Split(Repository):
    """A split, or a file, of a data set of the Hub; `files` is its path in the repository: `main/train`."""

    license: str = ""

    def matching(self, paths: Sequence[str]) -> list[str]:
        """Returns the files of the split, sorted.

        Raises:
          UserError: they belong to several sets, such as train_sft and train_gen, or main/train and socratic/train.
        """
        if file_format(Path(self.files)) in RECORDS:
            return [path for path in paths if path == self.files]
        folder, slash, split = self.files.rpartition("/")
        below = [Path(path) for path in paths if path.startswith(folder + slash)]
        records = sorted(path for path in below if file_format(path) in RECORDS and path.name not in METADATA)
        sets = {path: name for path in records if (name := _set_with_word(split, path))}
        if not sets and split == TRAIN and not any(_set_with_word(each, path) for each in SPLITS for path in records):
            others = [path for path in records if file_format(path) != ".json"]  # JSON next to these is metadata
            return [path.as_posix() for path in others or records]
        sets = {path: name for path, name in sets.items() if name.endswith(split)} or sets
        if len({(name, file_format(path)) for path, name in sets.items()}) > 1:
            raise UserError(
                f"{self.name} has several sets of the split {self.files} ({', '.join(sorted({*sets.values()}))}); name "
                f"one, as hf:{self.name}/{min(sets.values())}, or a file."
            )
        return [path.as_posix() for path in sets]


@dataclasses.dataclass(frozen=True)
class Model(Repository):
    """A model of the Hub: its config, its safetensors and the files of its tokenizer."""

    files: str = "config.json"
    license: str = ""
    kind: ClassVar[str] = "models"

    def matching(self, paths: Sequence[str]) -> list[str]:
        """Returns the model's files, sorted; those in folders of the repository have other formats.

        Raises:
          UserError: its weights are in another format.
        """
        here = [path for path in paths if "/" not in path]
        if fnmatch.filter(here, "*.bin") and not fnmatch.filter(here, "model*.safetensors"):
            raise UserError(
                f"{self.name} has its weights as .bin files only; load it with transformers, save it by "
                "save_pretrained, and give the folder."
            )
        return model_files(here)


def model_files(names: Sequence[str]) -> list[str]:
    """Returns a model's files among the names in its folder, sorted."""
    return sorted({name for pattern in MODEL_FILES for name in fnmatch.filter(names, pattern)})


def _set_with_word(word: str, path: Path) -> str:
    """Returns the set of a file with a word in its path: the path before the number of the shard.

    That of data/train_1M-00000-of-00002.parquet is data/train_1M, and that of main/train/0.csv is main/train. Returns
    "" where the path lacks the word.
    """
    rest = r"([-_.]?[0-9]*[A-Za-z][A-Za-z0-9]*)*"  # words after it, with a letter each
    name = stem(path.as_posix())
    found = re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z]){rest}", name)
    return name[: found.end()] if found else ""


def data_set(name: str, data_dir: Path) -> tuple[Repository, Path] | None:
    """Returns the repository of a data set of the Hub and its folder below `data_dir`; None for another name.

    Raises:
      UserError: "hf:..." is not of the form in this module's docstring.
    """
    if name in PUBLIC:
        return PUBLIC[name], data_dir / name
    if not name.startswith(HUGGING_FACE):
        return None
    parts = PurePosixPath(name.removeprefix(HUGGING_FACE)).parts
    repository = "/".join(parts[:2])
    if len(parts) < 3 or ".." in parts or not REPOSITORY.fullmatch(repository):
        raise UserError(f"The data set '{name}' must be hf:OWNER/NAME/SPLIT, such as hf:openai/gsm8k/main/train.")
    return Split(repository, "/".join(parts[2:])), data_dir / repository


def missing_model(name: str, data_dir: Path) -> Model | None:
    """Returns the repository of a model "OWNER/NAME" that is not, or not completely, in its folder below `data_dir`.

    Returns None for a model that is there, and for a path that can be no name of the Hub.
    """
    if ".." in name or not REPOSITORY.fullmatch(name):
        return None
    model, folder = Model(name), data_dir / name
    if folder.is_dir() and not is_downloaded(folder):
        return None
    return None if model.local_files(folder) else model


def fetch_model(name: str, data_dir: Path, pattern: str = "*") -> Path:
    """Returns the folder of a model below `data_dir`, after downloading the files of "OWNER/NAME" that are missing.

    Args:
      name: of the model.
      data_dir: the data folder.
      pattern: of the names of the files that are needed.

    Raises:
      UserError: the Hub has no such model, a file cannot be downloaded, or the weights are in another format.
    """
    folder = data_dir / name
    if model := missing_model(name, data_dir):
        try:
            files = model.find(folder)
        except UserError as error:
            raise UserError(f"The model {folder} is missing; correct hf:{name}, or mirror it. {error}") from None
        logging.warning("%s is missing and is downloaded from the Hub.", folder)
        for file in files:
            if fnmatch.fnmatch(file.path, pattern):
                fetch(file, folder, data_dir)
    return folder
