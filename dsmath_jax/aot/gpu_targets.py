"""NVIDIA GPUs as XLA's compiler sees them: the text of its `GpuTargetConfigProto`.

The numbers are those that XLA itself publishes for these cards (openxla/xla, xla/backends/gpu/target_config/specs), and
NVIDIA's for L4 and T4 (CUDA programming guide, compute capabilities 8.9 and 7.5; data sheets).
"""

from typing import NamedTuple

from dsmath_jax.hardware import Chip


class Architecture(NamedTuple):
    """What a compiler must know of a GPU; sizes are those of one multiprocessor (SM)."""

    capability: str  # CUDA compute capability; with "a", the instructions of this architecture alone
    multiprocessors: int
    fp32_units: int
    shared_memory: int  # bytes
    threads: int  # that can be resident
    clock_ghz: float


ARCHITECTURES: dict[str, Architecture] = {
    "a100-40": Architecture("8.0", 108, 64, 167_936, 2048, 1.41),
    "a100-80": Architecture("8.0", 108, 64, 167_936, 2048, 1.41),
    "h100": Architecture("9.0a", 132, 128, 233_472, 2048, 1.98),
    "h200": Architecture("9.0a", 132, 128, 233_472, 2048, 1.98),
    "b200": Architecture("10.0a", 148, 128, 233_472, 2048, 1.965),
    "l4": Architecture("8.9", 58, 128, 102_400, 1536, 2.04),
    "t4": Architecture("7.5", 40, 64, 65_536, 1024, 1.59),
}


def target_config(chip: Chip, gpu: Architecture) -> str:
    """Returns the text of the `GpuTargetConfigProto` of a card."""
    name = chip.device_kinds[0]
    major, minor = (int(n) for n in gpu.capability.rstrip("a").split("."))
    extension = "ACCELERATED_FEATURES" if gpu.capability.endswith("a") else "NONE"
    reserved = 1024 if major >= 8 else 0  # bytes of shared memory that the driver keeps of each block
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  core_count: {gpu.multiprocessors} fpus_per_core: {gpu.fp32_units} clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {chip.memory} memory_bandwidth: {chip.memory_bandwidth:.0f} l2_cache_size: {chip.cache}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {gpu.shared_memory - reserved}
  shared_memory_per_core: {gpu.shared_memory} threads_per_core_limit: {gpu.threads}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 threads_per_block_limit: 1024 threads_per_warp: 32
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 device_address_bits: 64
  name: "{name}" driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
"""
