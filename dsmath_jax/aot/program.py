"""Compiles a program for a topology, once: what the compiler made of it is kept in a cache.

An entry is the optimized HLO and the memory of one program, under the hash of what was compiled, for what and by which
versions. Costs are computed from it each time.
"""

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.aot.bound import bound_of
from dsmath_jax.aot.costs import costs
from dsmath_jax.aot.topology import Topology
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError, atomic_write

FULL_REMAT = "Involuntary full rematerialization"  # the partitioner's warning: it gathers an array to reshard it
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# A GPU's compiler would try kernels on the GPU.
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_autotune_level": 0}}
COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin",)}  # packages, with jax and jaxlib


def cache_folder() -> Path:
    """Returns the folder of compiled programs: `dsmath_jax/aot` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsmath_jax" / "aot"


def compile_program(lower: Callable[[], Any], topology: Topology, layout: Layout, trips: int = 1) -> dict[str, Any]:
    """Compiles a program, unless the cache has it, and returns its costs per device for one call.

    Args:
      lower: lowers the program.
      topology: what it is compiled for.
      layout: its mesh of the topology's devices.
      trips: how often loops run whose trip count depends on data.

    Returns:
      `memory`: the bytes of `arguments`, `temporaries`, `output`, `aliased` (output in donated buffers) and `code`;
        None if XLA refused the program because it needs too much memory.
      `hbm_bytes`: the peak memory (see `memory_of`), or what XLA says that a refused program needs.
      `flops`: FLOPs as compiled, with rematerialized work; `traffic`: bytes read from and written to HBM.
      `collectives`: rows of `kind`, mesh `axes`, `count` and `bytes`, as sent (see `aot.collectives`).
      `bound`: the seconds that each resource is busy at least (see `aot.bound`).
      `kernels`: the custom kernels. All of these are None for a refused program.
      `full_rematerializations`: number of arrays that the partitioner gathers whole to reshard them.
      `seconds`: that lowering and compiling took.
      `notes`: what is not counted.
    """
    entry = _compiled(lower(), topology)
    found = {name: entry[name] for name in ("memory", "hbm_bytes", "full_rematerializations", "seconds")}
    if entry["hlo"] is None:
        return found | dict.fromkeys(("flops", "traffic", "collectives", "bound", "kernels")) | {"notes": []}
    counted = costs(entry["hlo"], topology.chip.cache, trips)
    totals = counted.totals(lambda each: (each.kind, each.axes(layout.mesh.shape)))
    return found | {
        "flops": counted.flops,
        "traffic": counted.traffic,
        "collectives": [{"kind": kind, "axes": axes} | total for (kind, axes), total in totals.items()],
        "bound": bound_of(counted, topology.chip, layout.mesh.devices.flat)._asdict(),
        "kernels": sorted(counted.kernels),
        "notes": sorted(counted.unknown),
    }


def _compiled(lowered: Any, topology: Topology) -> dict[str, Any]:
    """Returns the cache's entry for a lowered program, after compiling it where there is none."""
    platform = topology.devices[0].platform
    options, packages = COMPILER_OPTIONS.get(platform, {}), ("jax", "jaxlib", *COMPILERS.get(platform, ()))
    flags = f"{os.environ.get('XLA_FLAGS', '')} {jax.config.values['jax_disable_most_optimizations']}"
    parts = [lowered.as_text(), topology.name, str(topology.chip), str(options), flags, *map(_version, packages)]
    path = cache_folder() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}.json.gz"
    if path.is_file():
        return json.loads(gzip.decompress(path.read_bytes()))
    began = time.monotonic()
    with capture_stderr() as warnings:
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            entry = refused_memory(str(error)) | {"hlo": None}
        else:
            entry = memory_of(compiled) | {"hlo": compiled.as_text()}
    entry |= {"full_rematerializations": warnings[0].count(FULL_REMAT), "seconds": round(time.monotonic() - began, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(json.dumps(entry).encode()))
    return entry


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def memory_of(compiled: Any) -> dict[str, Any]:
    """Returns `hbm_bytes` and `memory` of a compiled program, from XLA's buffer assignment.

    The peak decides whether a program fits: all buffers that are alive at the same time, donated arguments counted
    once. XLA itself compares it with the chip's memory. The size of the temporaries is a sum over buffers that are not
    all alive at the same time.
    """
    analysis = compiled.memory_analysis()
    memory = {
        "arguments": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "output": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    return {"hbm_bytes": analysis.peak_memory_in_bytes, "memory": memory}


def refused_memory(message: str) -> dict[str, Any]:
    """Returns `hbm_bytes`, and None as `memory`, of a program that needs too much memory, from XLA's error message.

    Raises:
      UserError: it was refused for another reason.
    """
    size = r"([\d.]+)([KMG]?)"
    used = re.search(rf"[Uu]sed {size} of {size} hbm|required for \w+ \w+ \({size}\) exceeds", message)
    if "RESOURCE_EXHAUSTED" not in message or used is None:
        raise UserError(f"XLA cannot compile this step: {message.splitlines()[0]}") from None
    number, unit = [part for part in used.groups() if part is not None][:2]
    return {"hbm_bytes": int(float(number) * UNITS[unit]), "memory": None}


@contextlib.contextmanager
def capture_stderr() -> Iterator[list[str]]:
    """Captures what native code writes to stderr; the list contains it after the block."""
    captured: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stderr"
        stderr = os.dup(2)
        try:
            with path.open("wb") as file:
                os.dup2(file.fileno(), 2)
            yield captured
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.append(path.read_text(encoding="utf-8", errors="replace"))
