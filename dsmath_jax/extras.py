"""The optional packages: the extra of setup.py that installs each, and the error where one is missing."""

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
    "jax_cuda13_plugin": "aot-gpu",
    "wandb": "wandb",
}


@contextlib.contextmanager
def required_by(what: str) -> Iterator[None]:
    """Turns a failed import of an optional package within the block into one sentence that names the extra.

    Args:
      what: what needs the package, such as "Stage corpus"; or the `__name__` of the module that imports it.

    Raises:
      UserError: the package is not installed.
      SystemExit: the same, and the module runs as a command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        package = next((name for name in EXTRAS if name.partition(".")[0] == root), None)
        if package is None:
            raise
        need = f"needs the package {package}: pip install 'dsmath-jax[{EXTRAS[package]}]'."
        if what == "__main__":
            print(f"error: This command {need}", file=sys.stderr)
            sys.exit(UserError.code)
        raise UserError(f"{what} {need}") from None
