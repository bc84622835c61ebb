"""The optional packages: which extra of setup.py installs each, and the sentence where one is missing."""

import contextlib
import sys
from collections.abc import Iterator

from dsmath_jax.workdir import UserError

EXTRAS = {
    "backports.zstd": "corpus",
    "brotli": "corpus",
    "daft": "corpus",
    "fasttext": "corpus",
    "latex2mathml": "corpus",
    "resiliparse": "corpus",
    "ray": "cluster",
    "gcsfs": "gcp",
    "s3fs": "s3",
    "libtpu": "tpu",
    "wandb": "wandb",
}


@contextlib.contextmanager
def required_by(what: str) -> Iterator[None]:
    """Turns a failed import of an optional package within the block into one sentence that names the extra.

    Args:
      what: what needs the package: "Stage corpus", or the `__name__` of a module whose imports are in the block. One
        that runs as a command exits.

    Raises:
      UserError: the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        package = next((name for name in EXTRAS if name.partition(".")[0] == root), None)
        if package is None:
            raise
        command = what == "__main__"
        what = "This command" if command else what
        missing = UserError(f"{what} needs the package {package}: pip install 'dsmath-jax[{EXTRAS[package]}]'.")
        if command:
            print(f"error: {missing}", file=sys.stderr)
            sys.exit(missing.code)
        raise missing from None
