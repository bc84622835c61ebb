"""MATH as in its archive and in mirrors: records written for the tests, since its license keeps it out of data
folders."""

from pathlib import Path

from dsmath_jax.workdir import write_json, write_jsonl

SUBJECTS = {
    "algebra": "Algebra",
    "geometry": "Geometry",
    "number_theory": "Number Theory",
    "precalculus": "Precalculus",
    "counting_and_probability": "Counting & Probability",
}
ANSWERS = (
    r"\frac{1}{2}", "42", r"2\sqrt{3}", "(-1,5]", r"\{1,2\}", r"x^2+2x", r"\text{even}",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
)  # fmt: skip


def rows(split: str) -> list[tuple[str, dict]]:
    """Yields the path of each problem in the archive, and its fields."""
    found = []
    for place, (folder, subject) in enumerate(SUBJECTS.items()):
        for number in range(3):
            answer = ANSWERS[(3 * place + number) % len(ANSWERS)]
            drawing = "[asy] draw(circle); [/asy] " if number == 1 else ""
            problem = f"{drawing}What is the {split} value {number} of ${folder[0]}$?"
            solution = f"Look at it. Therefore it is $\\boxed{{{answer}}}$."
            fields = {"problem": problem, "level": f"Level {number + 1}", "type": subject, "solution": solution}
            found.append((f"{folder}/{number + 10}.json", fields))
    return found


def write_archive(data_dir: Path) -> None:
    """Writes a file per problem, as in the archive."""
    for split in ("train", "test"):
        for path, fields in rows(split):
            write_json(data_dir / "MATH" / split / path, fields)


def write_mirror(data_dir: Path) -> None:
    """Writes JSON lines in another order, with other names and the level as a number."""
    for split in ("train", "test"):
        lines = [
            {"subject" if name == "type" else name: value for name, value in fields.items()}
            | {"level": int(fields["level"].removeprefix("Level "))}
            for _, fields in reversed(rows(split))
        ]
        write_jsonl(data_dir / "math" / f"{split}.jsonl", lines)
