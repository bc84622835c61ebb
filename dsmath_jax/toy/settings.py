"""The settings of the generated data folder."""

import dataclasses

from dsmath_jax.settings import check_choice, check_least, setting

TEMPLATES = ("default", "unseen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySettings:
    """The word problems and the synthetic web that are generated where `data_dir` is "toy"."""

    problems: dict[str, int] = setting({"train": 600, "rl": 4000, "test": 300}, "problems in each split")
    steps: tuple[int, ...] = setting((1, 2, 3), "numbers of arithmetic steps that a problem may have")
    largest: int = setting(15, "largest number in a problem or its solution")
    pages: int = setting(800, "HTML pages of the web, duplicates included")
    templates: str = setting("default", f"style of the pages, one of {', '.join(TEMPLATES)}")

    def __post_init__(self) -> None:
        for split, count in self.problems.items():
            check_least(f"problems.{split}", count, 0)
        check_least("steps", min(self.steps, default=0), 1)
        check_least("largest", self.largest, 4)
        check_least("pages", self.pages, 0)
        check_choice("templates", self.templates, TEMPLATES)
