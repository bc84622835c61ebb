"""Import and export of models in Hugging Face's format: `config.json` and safetensors.

The command line is `python -m dsmath_jax.models.huggingface import|export`.
"""

from dsmath_jax.models.huggingface.config_file import read_config
from dsmath_jax.models.huggingface.names import INDEX_FILE, SINGLE_FILE
from dsmath_jax.models.huggingface.peft import write_adapters
from dsmath_jax.models.huggingface.reading import Reader, readers
from dsmath_jax.models.huggingface.writing import GIGABYTE, write

__all__ = ["GIGABYTE", "INDEX_FILE", "SINGLE_FILE", "Reader", "read_config", "readers", "write", "write_adapters"]
