"""The benchmark of quantization: without it sampler and trainer agree, and both kinds of int8 change the policy."""

from pathlib import Path

import pytest

from benchmarks import quantization


@pytest.mark.slow
def test_differences_of_a_real_checkpoint(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = f"hf:{real_data}/checkpoints/stories260k_hf"
    quantization.main([f"--checkpoint={checkpoint}", "--dtypes=float32", "--samples=4", "--new_tokens=16"])
    head, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert head == quantization.COLUMNS.split(" | ")
    assert [row[1:3] for row in rows] == [
        ["float32", "float32"], ["int8", "float32"], ["float32", "int8"], ["int8", "int8"]
    ]  # fmt: skip
    (mean, *_, kl), *quantized = [[float(cell) for cell in row[3:]] for row in rows]
    assert mean < 1e-4
    assert kl < 1e-8
    for mean, percentile, largest, kl in quantized:
        assert 1e-3 < mean < percentile <= largest < 3
        assert 0 < kl < mean
