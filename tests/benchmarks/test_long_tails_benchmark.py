"""The simulation of long tails: its schedules have the drawn tokens, and its formulas are those of small examples."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import long_tails
from benchmarks.long_tails import CASES, Chunk
from dsmath_jax.workdir import UserError, read_json


def test_every_token_is_decoded_once_and_tails_are_what_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long_tails.main(["--cases=tiny", "--repetitions=2", "--oversample=0.5", f"--json={tmp_path / 'result.json'}"])
    strategies = read_json(tmp_path / "result.json")["cases"]["tiny"]["strategies"]
    lengths = [long_tails.draw_lengths(4, 4, seed) for seed in range(2)]
    mean, printed = np.mean(lengths), capsys.readouterr().out
    for name, row in strategies.items():
        assert f"| 4 x 4, 8 slots | {name} | " in printed
        assert 0 <= row["idle"] < 1
        if "oversample" not in name:
            assert row["mean_length"] == mean
            assert row["tokens"] == 16 * mean
            assert row["dropped"] == 0
    refill, early = strategies["refill"], strategies["oversample by 50%"]
    assert early["mean_length"] < mean
    assert early["dropped"] > 0
    assert strategies["refill, compaction"]["steps"] == refill["steps"] < strategies["without refill"]["steps"]
    assert strategies["refill, compaction"]["row_steps"] == refill["row_steps"] >= refill["tokens"], "8 slots are few"
    batches = [each.reshape(2, 8).max(axis=1).sum() for each in lengths]  # eight at a time, to the longest
    assert strategies["without refill"]["steps"] == np.mean(batches)


def test_fewer_rows_decode_the_same_tokens() -> None:
    case, lengths = long_tails.Case(4, 8, 32), long_tails.draw_lengths(4, 8, 0)
    whole, compacted = (long_tails.schedule(case, lengths, compact) for compact in (False, True))
    assert [[c.tokens for c in group] for group in whole[1]] == [[c.tokens for c in group] for group in compacted[1]]
    assert [chunk.steps for chunk in whole[0]] == [chunk.steps for chunk in compacted[0]]
    assert {chunk.rows for chunk in whole[0]} == {32}
    assert {chunk.rows for chunk in compacted[0]} == {32, 16, 8}


def test_a_queue_of_graded_groups() -> None:
    """Two groups end after a quarter of the sampling and two at its end; each takes a tenth of it to grade."""
    chunks = [Chunk(8, 5, 0, 2), Chunk(8, 15, 0, 4)]
    assert long_tails.grading_end(chunks, 0.4) == pytest.approx(1.2)
    assert long_tails.grading_end(chunks, 4.0) == pytest.approx(0.25 + 4)  # always busy from the first groups on
    assert long_tails.rollout_times(chunks, 0.4, 0.5) == pytest.approx(
        {"in order": 1.9, "groups graded as they end": 1.7, "one rollout ahead": 1.5, "both": 1.5}
    )


def test_lengths_are_cut_and_have_the_median() -> None:
    lengths = long_tails.draw_lengths(400, 50, 0)
    assert np.median(lengths) == pytest.approx(200, rel=0.1)
    assert lengths.max() == 1024
    assert np.log(np.median(lengths, axis=1)).std() == pytest.approx(0.5**0.5, rel=0.15)  # between prompts
    assert CASES["g64"].name == "16 x 64, 1,024 slots"


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(UserError, match="--oversample must be a share of the group, at least 0"):
        long_tails.main(["--cases=tiny", "--oversample=-1"])
