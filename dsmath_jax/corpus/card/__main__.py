"""`python -m dsmath_jax.corpus.card --workdir=DIR`: writes the data card of a finished corpus stage again."""

import sys

from dsmath_jax.corpus.card.card import main
from dsmath_jax.workdir import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main))
