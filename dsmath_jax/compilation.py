"""JAX's persistent compilation cache: a run that starts again loads its programs instead of compiling them."""

import hashlib
import logging
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax
from jax._src.compilation_cache import decompress_executable  # nothing public says whether an entry is whole
from jax.experimental.compilation_cache import compilation_cache

FOLDER = ".compilation_cache"
OFF = "off"
LIMIT = 10 << 30  # bytes of programs that a start leaves
FOLDERS, ENTRIES = "jaxlib-*", "*-cache"
CPUINFO = Path("/proc/cpuinfo")


def use_compilation_cache(setting: str, workdir: Path) -> None:
    """Lets JAX keep the programs that it compiles, apart by the version of jaxlib and the processor of the host.

    It has to be called before anything is compiled. Where the folder cannot be used, one line says so.

    Args:
      setting: the folder; "" for one in the workdir on TPUs and GPUs and none on CPUs, "off" for none. The environment
        variable JAX_COMPILATION_CACHE_DIR takes precedence over "".
      workdir: which all processes share: process 0 alone writes.
    """
    jax.config.update("jax_enable_compilation_cache", setting != OFF)
    if setting == OFF or (
        not setting and (jax.config.values["jax_compilation_cache_dir"] or jax.default_backend() == "cpu")
    ):
        return
    root = Path(setting) if setting else workdir / FOLDER
    folder = root / f"jaxlib-{version('jaxlib')}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if jax.process_index() == 0:
            drop_half_written(folder)
            drop_oldest(root, LIMIT)
    except OSError as error:
        logging.warning("The compilation cache %s cannot be used (%s): the run compiles all.", folder, error.strerror)
        return
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))


def drop_half_written(folder: Path) -> None:
    """Removes the newest entry where a kill cut it off: JAX would refuse it at every start and never write it again."""
    newest = max(folder.glob(ENTRIES), key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None:
        try:
            decompress_executable(newest.read_bytes())
        except Exception:  # of whatever library JAX compresses with
            newest.unlink(missing_ok=True)


def drop_oldest(root: Path, limit: int) -> None:
    """Removes the programs that have not been used for longest, until the rest has at most `limit` bytes.

    Other files in the folder, which may be the user's, are neither counted nor touched.
    """
    found = [(path, path.stat()) for path in root.glob(f"{FOLDERS}/{ENTRIES}") if path.is_file()]
    for path, stat in sorted(found, key=lambda one: -max(one[1].st_atime, one[1].st_mtime)):
        limit -= stat.st_size
        if limit < 0:
            path.unlink(missing_ok=True)


def _processor() -> str:
    """A name for this type of processor: programs compiled for CPUs use its instructions."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    known = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return hashlib.sha256("\n".join([platform.machine(), *sorted(known)]).encode()).hexdigest()[:12]
