"""Where texts for pre-training come from, by name: our corpus, public data sets, files of the user's own.

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
    """A public data set of texts, mirrored in the folder of its name in the data folder.

    Attributes:
      text: the field that holds a document.
      language: of its documents; "" where they are code.
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
    "skypile": Public("Skywork/SkyPile-150B", "data/*.jsonl", "Skywork community licence", language="zh"),
    "c4_zh": Public("allenai/c4", "multilingual/c4-zh.tfrecord-*.json.gz", WEB_TERMS, language="zh"),
}


@dataclasses.dataclass(frozen=True)
class Texts:
    """The files of one source, and how to read them.

    Attributes:
      root: the folder that paths are below.
      files: sorted.
      public: they are a public data set's: fetched where they are not there, their checksums compared.
      text: the field that holds a document.
      language: only records of this language; "" for all.
    """

    root: Path
    files: tuple[File, ...]
    public: bool = False
    text: str = "text"
    language: str = ""

    def fetch(self, file: File) -> Path:
        """The path of one of the files, which is there and whole."""
        return downloads.fetch(file, self.root, self.root.parent) if self.public else self.root / file.path


def find(name: str, data_dir: Path, corpus: Path) -> Texts:
    """The files of a source: "corpus" or "corpus/LANGUAGE", a name in `PUBLIC`, or a path below `data_dir`.

    Of a public data set nothing is fetched but its list of files, and that only where no file is mirrored.

    Args:
      corpus: the folder of our documents.

    Raises:
      UserError: there is no file, or the list cannot be had.
    """
    if name in PUBLIC:
        source, folder = PUBLIC[name], data_dir / name
        return Texts(folder, source.find(folder), public=True, text=source.text)
    path, language = (corpus, name.partition("/")[2]) if is_corpus(name) else (data_dir / name, "")
    if not path.exists():
        known = ", ".join((CORPUS, f"{CORPUS}/en", f"{CORPUS}/zh", *PUBLIC))
        raise UserError(f"There are no texts at {path}; pretrain.mixture names sources ({known}) or paths to them.")
    root = path.parent if path.is_file() else path
    paths = [file.relative_to(root).as_posix() for file in documents.files_below(path)]
    return Texts(root, tuple(File(one) for one in paths), language=language)


def check(name: str, data_dir: Path) -> None:
    """Raises a `UserError` where the files of a source other than our corpus are not there and cannot be fetched."""
    if name in PUBLIC:
        PUBLIC[name].at_hand(data_dir / name)
    elif not is_corpus(name):
        find(name, data_dir, data_dir)


def grouped(texts: Texts, size: int) -> list[tuple[File, ...]]:
    """The files in their order, in groups that are worked on together.

    Files of a public data set are large: each is a group. Of others, neighbours are joined up to `size` bytes: a folder
    may hold a document a file.
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
    """Whether a source is our own corpus, or its documents of one language."""
    return name.partition("/")[0] == CORPUS


def user_files(names: Iterable[str], data_dir: Path) -> list[Path]:
    """The user's own files among the sources: a change of them is a change of the run.

    Those of public data sets are not: their checksums are compared when they are read.
    """
    own = [data_dir / name for name in names if name not in PUBLIC and not is_corpus(name)]
    return [file for path in own if path.exists() for file in documents.files_below(path)]
