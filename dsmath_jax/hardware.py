"""Accelerators: memory and peak rates of one JAX device, from the vendors' data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One JAX device. Rates are peaks, per second.

    Attributes:
      device_kinds: its names as JAX's `device_kind`.
      peak_flops: dense bfloat16 FLOP/s (float16 where there is no bfloat16).
      memory: bytes. TPUs: XLA's "available HBM", which leaves out what the runtime reserves; GPUs: all of it.
      memory_bandwidth: bytes/s of the HBM, reads and writes together.
      link_bandwidth: bytes/s that a device sends to others of its slice (ICI) or host (NVLink, else PCIe), over all
        links together.
      network_bandwidth: bytes/s that a device sends to other slices or hosts: its share of the host's network.
      cache: bytes of the L2 cache, which keeps small arrays out of the HBM. TPUs have none: their HLO says which arrays
        are in on-chip memory.
      source: where the numbers are from.
    """

    device_kinds: tuple[str, ...]
    peak_flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    cache: int = 0
    source: str


_CLOUD = "cloud.google.com/tpu/docs/"
# Google states ICI rates in both directions together; half of that is sent. Network rates are per chip.
CHIPS: dict[str, Chip] = {
    "v4": Chip(
        device_kinds=("TPU v4",), peak_flops=275e12, memory=int(30.5 * 2**30), memory_bandwidth=1200e9,
        link_bandwidth=300e9, network_bandwidth=6.25e9,
        source=_CLOUD + "v4; ICI (6 links of 50 GB/s): arXiv 2304.01433; network: assumed as v5p's",
    ),
    "v5e": Chip(
        device_kinds=("TPU v5 lite", "TPU v5e"), peak_flops=197e12, memory=int(15.75 * 2**30), memory_bandwidth=819e9,
        link_bandwidth=200e9, network_bandwidth=3.125e9, source=_CLOUD + "v5e",
    ),
    "v5p": Chip(
        device_kinds=("TPU v5", "TPU v5p"), peak_flops=459e12, memory=int(95.74 * 2**30), memory_bandwidth=2765e9,
        link_bandwidth=600e9, network_bandwidth=6.25e9, source=_CLOUD + "v5p",
    ),
    "v6e": Chip(
        device_kinds=("TPU v6 lite", "TPU v6e"), peak_flops=918e12, memory=int(31.25 * 2**30), memory_bandwidth=1638e9,
        link_bandwidth=400e9, network_bandwidth=12.5e9, source=_CLOUD + "v6e",
    ),
    "tpu7x": Chip(  # a chip is two JAX devices
        device_kinds=("TPU7x",), peak_flops=2307e12 / 2, memory=int(94.75 * 2**30), memory_bandwidth=7380e9 / 2,
        link_bandwidth=600e9 / 2, network_bandwidth=12.5e9 / 2, source=_CLOUD + "tpu7x, halved",
    ),
    # NVIDIA states NVLink and PCIe rates in both directions together; half of that is sent.
    "a100-40": Chip(
        device_kinds=("NVIDIA A100-SXM4-40GB",), peak_flops=312e12, memory=42_331_013_120, memory_bandwidth=1555e9,
        link_bandwidth=300e9, network_bandwidth=25e9, cache=40 * 2**20,
        source="NVIDIA A100 data sheet; network: DGX A100, 200 Gb/s a GPU",
    ),
    "a100-80": Chip(
        device_kinds=("NVIDIA A100-SXM4-80GB",), peak_flops=312e12, memory=85_100_068_864, memory_bandwidth=2039e9,
        link_bandwidth=300e9, network_bandwidth=25e9, cache=40 * 2**20,
        source="NVIDIA A100 data sheet; network: DGX A100, 200 Gb/s a GPU",
    ),
    "a100-pcie": Chip(
        device_kinds=("NVIDIA A100 80GB PCIe",), peak_flops=312e12, memory=85_100_068_864, memory_bandwidth=1935e9,
        link_bandwidth=300e9, network_bandwidth=25e9, cache=40 * 2**20,
        source="NVIDIA A100 data sheet; links: the NVLink bridge of two GPUs; network: as a100-80",
    ),
    "h100": Chip(
        device_kinds=("NVIDIA H100 80GB HBM3",), peak_flops=989e12, memory=84_942_979_072, memory_bandwidth=3350e9,
        link_bandwidth=450e9, network_bandwidth=50e9, cache=50 * 2**20,
        source="NVIDIA H100 data sheet (SXM); network: DGX H100, 400 Gb/s a GPU",
    ),
    "h100-pcie": Chip(
        device_kinds=("NVIDIA H100 PCIe",), peak_flops=756e12, memory=84_942_979_072, memory_bandwidth=2000e9,
        link_bandwidth=300e9, network_bandwidth=50e9, cache=50 * 2**20,
        source="NVIDIA H100 data sheet (PCIe); links: the NVLink bridge of two GPUs; network: as h100",
    ),
    "h200": Chip(
        device_kinds=("NVIDIA H200", "NVIDIA H200 141GB HBM3e"), peak_flops=989e12, memory=151_397_597_184,
        memory_bandwidth=4800e9, link_bandwidth=450e9, network_bandwidth=50e9, cache=50 * 2**20,
        source="NVIDIA H200 data sheet (SXM); network: DGX H200, 400 Gb/s a GPU",
    ),
    "b200": Chip(
        device_kinds=("NVIDIA B200",), peak_flops=2250e12, memory=191_514_411_008, memory_bandwidth=8000e9,
        link_bandwidth=900e9, network_bandwidth=50e9, cache=126 * 2**20,
        source="NVIDIA DGX B200 data sheet, per GPU; network: 400 Gb/s a GPU",
    ),
    "l4": Chip(
        device_kinds=("NVIDIA L4",), peak_flops=121e12, memory=24_152_899_584, memory_bandwidth=300e9,
        link_bandwidth=32e9, network_bandwidth=1.5625e9, cache=48 * 2**20,
        source="NVIDIA L4 data sheet (PCIe 4.0 x16); network: Google's g2-standard-96, 100 Gb/s for 8 GPUs",
    ),
    "t4": Chip(
        device_kinds=("Tesla T4",), peak_flops=65e12, memory=15_843_721_216, memory_bandwidth=320e9,
        link_bandwidth=16e9, network_bandwidth=3.125e9, cache=4 * 2**20,
        source="NVIDIA T4 data sheet (PCIe 3.0 x16); network: Google's n1, 100 Gb/s for 4 GPUs",
    ),
}  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of JAX's `device_kind`; None if it is not in the table."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)
