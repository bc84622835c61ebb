"""Reads the small input files of the corpus: seed prefixes and page labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.corpus import urls
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data import datasets
from dsmath_jax.workdir import UserError, read_jsonl


def files(settings: CorpusSettings, data_dir: Path) -> list[Path]:
    """Returns the paths of the user's small input files that the settings name."""
    own = [name for name in settings.benchmarks if datasets.is_own(name) or datasets.is_in_module(name)]
    names = (settings.seeds, settings.labels, settings.annotations)
    return [*(data_dir / name for name in names if name), *(f for name in own for f in datasets.files(name, data_dir))]


def read_seeds(path: Path) -> list[str]:
    """Reads URL prefixes, one per line, in canonical form; skips empty lines and # comments.

    Raises:
      UserError: the file is missing or has no prefix, or a line is not a URL prefix.
    """
    if not path.is_file():
        raise UserError(f"The seed file {path} is missing; write URL prefixes into it, one per line.")
    prefixes = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        prefix = line.strip()
        if not prefix or prefix.startswith("#"):
            continue
        if not urls.host(prefix):
            raise UserError(f"{path}, line {number}: '{prefix}' is not a URL prefix such as https://a.org/b/; fix it.")
        prefixes.append(urls.canonical_prefix(prefix))
    if not prefixes:
        raise UserError(f"The seed file {path} holds no URL prefix; add some, one per line.")
    return prefixes


def read_labels(path: Path) -> dict[str, dict]:
    """Reads page labels: rows with `url`, `label` ("math" or "other") and optionally `contaminated`, by canonical URL.

    Raises:
      UserError: the file is missing or empty, or a line is not such a row.
    """
    labels = {}
    for number, row in enumerate(read_jsonl(path), 1):
        if not isinstance(row.get("url"), str) or row.get("label") not in ("math", "other"):
            raise UserError(f'{path}, line {number}: a label needs "url", and "math" or "other" in "label"; fix it.')
        labels[urls.canonical(row["url"])] = row
    if not labels:
        raise UserError(f"The label file {path} is empty; add labels or set --config.corpus.labels='' to run without.")
    return labels


def below_any(canonical_urls: Sequence[str], prefixes: Sequence[str]) -> np.ndarray:
    """Returns bool [pages]: whether each canonical URL is below one of the canonical prefixes."""
    return np.array([url.startswith(tuple(prefixes)) for url in canonical_urls], bool)
