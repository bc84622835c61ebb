"""Draws of questions: even over data sets and their parts, decided by the seed and the texts alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import datasets
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.subsample import EVALUATION_SEED, load_subsample, subsample
from dsmath_jax.workdir import write_jsonl
from tests.evaluation.math_files import write_archive

Sets = list[list[Record]]


@st.composite
def data_sets(draw: st.DrawFn) -> Sets:
    """Up to four sets of records with distinct questions, in up to four categories of up to three levels."""
    parts = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123")), min_size=1, max_size=40)
    found = draw(st.lists(parts, min_size=1, max_size=4))
    return [
        [Record(f"{n}/{i}", f"question {n} {i}", category=c, level=v) for i, (c, v) in enumerate(one)]
        for n, one in enumerate(found)
    ]


def set_sizes(records: Sequence[Record]) -> Counter[str]:
    return Counter(record.id.split("/")[0] for record in records)


def parts_of(records: Sequence[Record]) -> Counter[tuple[str, str]]:
    return Counter((record.category, record.level) for record in records)


@given(data_sets(), st.integers(0, 200), st.integers(0, 3))
def test_a_draw_has_the_count_and_keeps_the_order(sets: Sets, count: int, seed: int) -> None:
    everything = [record for one in sets for record in one]
    drawn = subsample(sets, count, seed)
    assert len(drawn) == (min(count, len(everything)) if count else len(everything))
    assert [record for record in everything if record in drawn] == drawn
    if count == 0 or count >= len(everything):
        assert drawn == everything


@given(data_sets(), st.integers(1, 200), st.integers(0, 3))
def test_sets_give_the_same_number_or_all_they_have(sets: Sets, count: int, seed: int) -> None:
    numbers = set_sizes(subsample(sets, count, seed))
    not_whole = [numbers[str(n)] for n, one in enumerate(sets) if numbers[str(n)] < len(one)]
    if not_whole:
        assert max(numbers.values()) - min(not_whole) <= 1


@given(data_sets(), st.integers(1, 200), st.integers(0, 3))
def test_parts_of_a_set_give_one_each_and_then_their_share(sets: Sets, count: int, seed: int) -> None:
    one = sets[0]
    drawn, sizes = subsample([one], count, seed), parts_of(one)
    numbers, categories = parts_of(drawn), {record.category for record in one}
    assert len({record.category for record in drawn}) == min(len(drawn), len(categories))
    assert len(numbers) == len(sizes) or len(drawn) < len(sizes)
    if len(drawn) >= len(sizes):
        # The last record of a part stands for no smaller share of it than the next record of any other would.
        last = max(((numbers[part] - 0.5) / size for part, size in sizes.items() if numbers[part] > 1), default=0.0)
        assert all(last <= (numbers[part] + 0.5) / size for part, size in sizes.items() if numbers[part] < size)


@given(data_sets(), st.integers(1, 100), st.integers(0, 100), st.integers(0, 3))
def test_a_larger_draw_has_all_of_a_smaller_one(sets: Sets, count: int, more: int, seed: int) -> None:
    larger = {record.id for record in subsample(sets, count + more, seed)}
    assert {record.id for record in subsample(sets, count, seed)} <= larger


@given(data_sets(), st.integers(1, 100), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_place_in_a_file_does_not_matter(sets: Sets, count: int, seed: int, random: Random) -> None:
    shuffled = [random.sample(one, len(one)) for one in sets]
    questions = [{r.question for r in subsample(each, count, seed)} for each in (sets, shuffled)]
    assert questions[0] == questions[1]


def test_seeds_draw_other_records() -> None:
    one = [Record(str(i), f"question {i}") for i in range(1000)]
    draws = [{record.id for record in subsample([one], 500, seed)} for seed in range(3)]
    assert all(200 < len(a & b) < 300 for a, b in ((draws[0], draws[1]), (draws[1], draws[2])))


def test_equal_questions_are_drawn_once_each() -> None:
    one = [Record(str(i), "the same \ud800") for i in range(9)]
    assert len({record.id for record in subsample([one], 5, 0)}) == 5


def test_all_subjects_and_levels_of_math_are_drawn(tmp_path: Path) -> None:
    """The first of the files are all of one subject, and a data set named first would give most."""
    write_archive(tmp_path)
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(100)]
    write_jsonl(tmp_path / "sums.jsonl", rows)
    math = datasets.load("math/test", tmp_path)
    drawn = load_subsample(("sums.jsonl", "math/test"), tmp_path, 20, EVALUATION_SEED)
    assert Counter(record.id.split("/")[0] for record in drawn) == {"sums": 10, "math": 10}
    assert {record.category for record in drawn[10:]} == {record.category for record in math}


def test_real_benchmarks_give_every_subject_and_grade(real_data: Path) -> None:
    names = ("gsm8k/train", "mmlu_stem/test", "cmath/test", "bbh/test")
    drawn = load_subsample(names, real_data, 400, 7)
    for name in names:
        found = [record for record in drawn if record.id.startswith(f"{name}/")]
        assert len(found) == 100
        whole = parts_of(datasets.load(name, real_data))
        assert parts_of(found).keys() == whole.keys()
        expected = {part: 100 * size / sum(whole.values()) for part, size in whole.items()}
        assert all(abs(number - expected[part]) <= 2 for part, number in parts_of(found).items())
