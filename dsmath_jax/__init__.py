"""The DeepSeekMath paper (arXiv 2402.03300) as one JAX codebase."""

__version__ = "0.2.0"
