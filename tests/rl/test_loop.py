"""What the RL stage refuses before it begins, and the rewards that it knows."""

from pathlib import Path

import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.rl.loop import make_reward, run
from dsmath_jax.sampling.sampler import Completion
from dsmath_jax.workdir import UserError

RECORDS = [Record("x/0", "?", "", "1,024"), Record("x/1", "?", "", "7")]


def test_the_rule_rewards_right_answers(tmp_path: Path, mesh: Mesh) -> None:
    reward = make_reward("rule", tmp_path, mesh, 8, 4)
    texts = ["2 * 512\nThe answer is 1024.", "The answer is 8.", "7", "So the answer is 7."]
    completions = [Completion(i // 2, i % 2, [3], [0.0], True) for i in range(4)]
    given = [RECORDS[0], RECORDS[0], RECORDS[1], RECORDS[1]]
    found = reward([[1], [1]], completions, texts, given)
    assert found.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert found.dtype == np.float64
    with pytest.raises(ValueError, match="shorter"):
        reward([[1], [1]], completions, texts, given[:3])


def test_an_unknown_reward_is_refused(tmp_path: Path, mesh: Mesh) -> None:
    with pytest.raises(UserError, match=r"Unknown rl\.reward 'rules'; known ones are rule, reward_model"):
        make_reward("rules", tmp_path, mesh, 8, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppg"}, r"Unknown rl\.method 'ppg'; known ones are grpo, online_rft"),
        ({"group_size": 1}, r"rl\.group_size is 1; a group needs at least 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    config = ConfigDict({"mesh": {"fsdp": -1, "tensor": 1}, "rl": {"method": "grpo", "group_size": 4} | changes})
    with pytest.raises(UserError, match=message):
        run(config, tmp_path)
