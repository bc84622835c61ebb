"""Sources of pre-training texts, by name: the mined corpus, public data sets, the user's files.

Paper section 2.2 mixes its corpus (56 %), AlgebraicStack (4 %), arXiv (10 %), GitHub code (20 %) and natural language
in English and Chinese (10 %).
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from dsmath_jax.data import documents, downloads
from dsmath_jax.data.downloads import File
from dsmath_jax.workdir import UserError

CORPUS = "corpus"


@dataclasses.dataclass(frozen=True)
class Public(downloads.Repository):
    """A public data set of texts, in the folder of its name in the data folder.

    Attributes:
      text: the field of the text.
      language: of its documents; "" for code.
    """

    text: str = "text"
    language: str = "en"


WEB_TERMS = "ODC-By 1.0, Common Crawl's terms"
PROOF_PILE, REPOSITORIES = "EleutherAI/proof-pile-2", "of each repository"
PUBLIC: dict[str, Public] = {
    "openwebmath": Public("open-web-math/open-web-math", "data/*.parquet", WEB_TERMS),
    "algebraic_stack": Public(PROOF_PILE, "algebraic-stack/train/*.jsonl.zst", REPOSITORIES, language=""),
    "arxiv": Public(PROOF_PILE, "arxiv/train/*.jsonl.zst", "of each paper"),
    "github_code": Public("codeparrot/github-code-clean", "data/*.parquet", REPOSITORIES, "code", ""),
    "the_stack": Public("", "data/*.parquet", "BigCode's terms, bigcode/the-stack-dedup", "content", ""),
    "fineweb": Public("HuggingFaceFW/fineweb", "sample/100BT/*.parquet", WEB_TERMS),
    "skypile": Public("Skywork/SkyPile-150B", "data/*.jsonl", "Skywork community license", language="zh"),
    "c4_zh": Public("allenai/c4", "multilingual/c4-zh.tfrecord-*.json.gz", WEB_TERMS, language="zh"),
}


@dataclasses.dataclass(frozen=True)
class TextSource:
    """The files of one source, and how to read them.

    Attributes:
      root: the folder of the paths.
      files: sorted.
      public: whether they are of a public data set: downloaded if missing, with checksums.
      text: the field of the text.
      language: only records of this language; "" for all.
    """

    root: Path
    files: tuple[File, ...]
    public: bool = False
    text: str = "text"
    language: str = ""

    def fetch(self, file: File) -> Path:
        """Returns the path of one of the files, downloaded if it is missing."""
        return downloads.fetch(file, self.root, self.root.parent) if self.public else self.root / file.path


def find(name: str, data_dir: Path, corpus: Path) -> TextSource:
    """Returns the files of a source: "corpus" or "corpus/LANGUAGE", a name in `PUBLIC`, or a path below `data_dir`.

    Of a public data set only the list of files is downloaded, unless it is mirrored.

    Args:
      corpus: the folder of the mined documents.

    Raises:
      UserError: there is no file, or the list cannot be downloaded.
    """
    if name in PUBLIC:
        source, folder = PUBLIC[name], data_dir / name
        return TextSource(folder, source.find(folder), public=True, text=source.text)
    path, language = (corpus, name.partition("/")[2]) if is_corpus(name) else (data_dir / name, "")
    if not path.exists():
        known = ", ".join((CORPUS, f"{CORPUS}/en", f"{CORPUS}/zh", *PUBLIC))
        raise UserError(f"There are no texts at {path}; pretrain.mixture names sources ({known}) or paths to them.")
    root = path.parent if path.is_file() else path
    paths = [file.relative_to(root).as_posix() for file in documents.files_below(path)]
    return TextSource(root, tuple(map(File, paths)), language=language)


def check(name: str, data_dir: Path) -> None:
    """Raises a `UserError` where the files of a source other than the corpus are missing and cannot be downloaded."""
    if name in PUBLIC:
        PUBLIC[name].local_files(data_dir / name)
    elif not is_corpus(name):
        find(name, data_dir, data_dir)


def grouped(texts: TextSource, size: int) -> list[tuple[File, ...]]:
    """Groups the files, in their order, by shard.

    Each file of a public data set is a group, since they are large. Other files are grouped up to `size` bytes: a
    folder may have a file per document.
    """
    if texts.public:
        return [(file,) for file in texts.files]
    groups: list[list[File]] = []
    room = 0
    for file in texts.files:
        needed = (texts.root / file.path).stat().st_size
        if not groups or needed > room:
            groups.append([])
            room = size
        groups[-1].append(file)
        room -= needed
    return [tuple(group) for group in groups]


def is_corpus(name: str) -> bool:
    """Whether a source is the mined corpus, or its documents of one language."""
    return name.partition("/")[0] == CORPUS


def user_files(names: Iterable[str], data_dir: Path) -> list[Path]:
    """Returns the user's own files among the sources, which are part of a run's fingerprint.

    Files of public data sets are not: their checksums are verified when they are read.
    """
    paths = [data_dir / name for name in names if name not in PUBLIC and not is_corpus(name)]
    return [file for path in paths if path.exists() for file in documents.files_below(path)]
