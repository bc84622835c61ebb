"""Benchmarks of speed and memory, compared with other libraries in the same run.

`python -m benchmarks.NAME` from the repository's root measures NAME: `attention`, `corpus`, `cross_entropy`,
`formulas`, `grading`, `grpo_iteration`, `grpo_memory`, `sampling` or `train_step`. `make peers` makes the environment
of the other libraries, `--peer=.venv-peers/bin/python` names its interpreter; without it this project alone is
measured. The package is not in the wheel.
"""
