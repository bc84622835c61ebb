"""LLaMA folders in Hugging Face's layout: `config.json`, safetensors in one file or several, both ways.

`python -m dsmath_jax.models.huggingface import|export` is the command line of it.
"""

from dsmath_jax.models.huggingface.config_file import config_json, read_config
from dsmath_jax.models.huggingface.names import INDEX_FILE, LEAVES, SINGLE_FILE, Leaf
from dsmath_jax.models.huggingface.reading import Reader, readers
from dsmath_jax.models.huggingface.writing import GIGABYTE, write

__all__ = [
    "GIGABYTE",
    "INDEX_FILE",
    "LEAVES",
    "SINGLE_FILE",
    "Leaf",
    "Reader",
    "config_json",
    "read_config",
    "readers",
    "write",
]
