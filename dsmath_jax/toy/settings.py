"""The settings of the generated data folder."""

import dataclasses

from dsmath_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    """The word problems and the synthetic web that are generated if `data_dir` is "toy"."""

    problems: dict[str, int] = setting({"train": 600, "rl": 4000, "test": 300}, "problems in each split", ge=0)
    steps: tuple[int, ...] = setting(
        (1, 2, 3), "numbers of arithmetic steps that a problem may have", ge=1, nonempty=True
    )
    largest: int = setting(15, "largest number in a problem or its solution", ge=4)
    calculator: float = setting(0.0, "share of solutions whose equations call the calculator", ge=0, le=1)
    pages: int = setting(800, "HTML pages of the web, duplicates included", ge=1)
