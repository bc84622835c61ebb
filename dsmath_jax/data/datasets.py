"""Loads data sets: records with questions, worked solutions and answers, from a mirror folder.

The corpus's decontamination and the evaluation both load data sets here, so that every data set that is evaluated is
decontaminated against. Prompts and scores are in `evaluation`.

Decontamination removes questions and worked solutions from a corpus. Options and answers are separate fields that it
ignores, since any page may contain them. Formal statements (miniF2F) are removed too: `minif2f_formal/...` has them as
questions, while in `minif2f/...` they are the answers, the formalization of an informal statement.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dsmath_jax import user_code
from dsmath_jax.data import dataset_formats as formats
from dsmath_jax.data import hub, own_data
from dsmath_jax.data.dataset_files import (
    Reader,
    Row,
    agieval_prompts,
    bbh_json,
    bbh_prompts,
    json_lines,
    json_lines_between,
    math_json,
    mmlu_csv,
)
from dsmath_jax.data.dataset_formats import BadField, Parse, Record
from dsmath_jax.data.own_data import NO_COLUMNS, Columns
from dsmath_jax.workdir import UserError

ALL = "all"
ReadRecords = Callable[[str, Columns], list[Record]]  # of a data set by its name, and of own data with these columns


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of a data set below the data folder, and their parser.

    Attributes:
      path: a file or a glob.
      parse: makes a record from its id and the fields of its row.
      read: yields the rows of one file.
      mirror: a file to read where `path` matches none.
      hint: what to do where there is neither, with `{data_dir}` for the folder; `PUBLISHED` has its address.
    """

    path: str
    parse: Parse
    read: Reader = json_lines
    mirror: str = ""
    hint: str = "set --config.data_dir or --data_dir"

    def files(self, data_dir: Path) -> list[Path]:
        """Returns the files of the split, sorted; none if it is missing."""
        files = sorted(path for path in data_dir.glob(self.path) if path.is_file())
        mirrors = [data_dir / self.mirror] if self.mirror else []
        return files or [path for path in mirrors if path.is_file()]


CMATH = formats.columns(answer="golden", level="grade")
CMATH_DEV = formats.columns(question="input", answer="golden", level="grade")
OCW = formats.columns(question="problem", solution="solution", kind="math")
FEW_SHOT_PROMPTS = "agieval/few_shot_prompts.csv"
# MATH's license keeps it out of mirrors, and the archive has the right folders.
MATH_HINT = "unpack the MATH data set's own archive: curl -L https://people.eecs.berkeley.edu/~hendrycks/MATH.tar | "
MATH_HINT += "tar x -C {data_dir}"

SOURCES: dict[str, Source] = {
    "toy/train": Source("problems/train.jsonl", formats.toy),
    "toy/rl": Source("problems/rl.jsonl", formats.toy),
    "toy/dev": Source("problems/dev.jsonl", formats.toy),
    "toy/test": Source("problems/test.jsonl", formats.toy),
    "gsm8k/train": Source("gsm8k/train.jsonl", formats.gsm8k),
    "gsm8k/test": Source("gsm8k/test.jsonl", formats.gsm8k),
    "gsm8k_marked/train": Source("gsm8k/train.jsonl", formats.gsm8k_marked),
    "math/train": Source("MATH/train/*/*.json", formats.math, math_json, "math/train.jsonl", MATH_HINT),
    "math/test": Source("MATH/test/*/*.json", formats.math, math_json, "math/test.jsonl", MATH_HINT),
    "ocw/test": Source("ocw/test.jsonl", OCW),
    "sat/test": Source("sat/test.jsonl", formats.sat),
    "mmlu_stem/test": Source("mmlu_stem/test.jsonl", formats.mmlu),
    "mmlu/dev": Source("mmlu/dev/*_dev.csv", formats.mmlu, mmlu_csv),
    "mmlu/test": Source("mmlu/test/*_test.csv", formats.mmlu, mmlu_csv),
    "cmath/dev": Source("cmath/dev.jsonl", CMATH_DEV),
    "cmath/test": Source("cmath/test.jsonl", CMATH),
    "mgsm_zh/test": Source("mgsm_zh/test.jsonl", formats.mgsm),
    "gaokao_mathcloze/dev": Source(FEW_SHOT_PROMPTS, formats.agieval, agieval_prompts("gaokao-mathcloze")),
    "gaokao_mathcloze/test": Source("agieval/gaokao-mathcloze.jsonl", formats.agieval),
    "gaokao_mathqa/dev": Source(FEW_SHOT_PROMPTS, formats.agieval, agieval_prompts("gaokao-mathqa")),
    "gaokao_mathqa/test": Source("agieval/gaokao-mathqa.jsonl", formats.agieval),
    "agieval_sat_math/dev": Source(FEW_SHOT_PROMPTS, formats.agieval, agieval_prompts("sat-math")),
    "agieval_sat_math/test": Source("agieval/sat-math.jsonl", formats.agieval),
    "minif2f/validation": Source("minif2f/validation.jsonl", formats.minif2f),
    "minif2f/test": Source("minif2f/test.jsonl", formats.minif2f),
    "minif2f_formal/validation": Source("minif2f/validation.jsonl", formats.minif2f_formal),
    "minif2f_formal/test": Source("minif2f/test.jsonl", formats.minif2f_formal),
    "bbh/dev": Source("bbh/cot-prompts/*.txt", formats.bbh, bbh_prompts),
    "bbh/test": Source("bbh/tasks/*.json", formats.bbh, bbh_json),
    "humaneval/test": Source("humaneval/HumanEval.jsonl.gz", formats.humaneval),
    "mbpp/dev": Source("mbpp/mbpp.jsonl", formats.mbpp, json_lines_between("task_id", 1, 10)),
    "mbpp/test": Source("mbpp/mbpp.jsonl", formats.mbpp, json_lines_between("task_id", 11, 510)),
    "mbpp/validation": Source("mbpp/mbpp.jsonl", formats.mbpp, json_lines_between("task_id", 511, 600)),
    "mbpp/train": Source("mbpp/mbpp.jsonl", formats.mbpp, json_lines_between("task_id", 601, 974)),
}

# Where the files are published, by the first part of a source's name.
PUBLISHED = {
    **dict.fromkeys(("gsm8k", "gsm8k_marked"), "github.com/openai/grade-school-math (grade_school_math/data)"),
    **dict.fromkeys(
        ("ocw", "sat", "mmlu_stem", "mgsm_zh", "minif2f", "minif2f_formal"),
        "github.com/deepseek-ai/DeepSeek-Math (evaluation/datasets)",
    ),
    "mmlu": "github.com/hendrycks/test (its data archive)",
    "cmath": "github.com/deepseek-ai/DeepSeek-Math (test) and github.com/XiaoMi/cmath (dev)",
    **dict.fromkeys(("gaokao_mathcloze", "gaokao_mathqa", "agieval_sat_math"), "github.com/ruixiangcui/AGIEval (data)"),
    "bbh": "github.com/suzgunmirac/BIG-Bench-Hard (bbh as bbh/tasks, and cot-prompts)",
    "humaneval": "github.com/openai/human-eval (data)",
    "mbpp": "github.com/google-research/google-research (mbpp)",
}

# The splits that models are evaluated on, which must not be in a corpus.
TEST_SPLITS = tuple(name for name in SOURCES if name.endswith("/test") and not name.startswith("toy/"))
# Sources with the texts of another source in another format.
REFORMATTED = ("gsm8k_marked/train",)


def available(data_dir: str | Path) -> list[str]:
    """Returns the names of the data sets below `data_dir`, in the order of `SOURCES`, including training splits."""
    return [name for name, source in SOURCES.items() if name not in REFORMATTED and source.files(Path(data_dir))]


def files(name: str, data_dir: Path) -> list[Path]:
    """Returns the user's files that `load` reads for a name; none if they are missing, or of the Hub.

    Raises:
      UserError: the name is one of the user's data, and there is no file.
    """
    if is_own(name):
        return own_data.user_files(name, data_dir)
    if is_in_module(name):
        return [*user_code.source_files([name]), *source_of(name).files(data_dir)]
    names = available(data_dir) if name == ALL else [name] if name in SOURCES else []
    return [path for each in names for path in SOURCES[each].files(data_dir)]


def is_own(name: str) -> bool:
    """Whether a name is of a user's file, folder or data set of the Hub, see `own_data`."""
    return name not in SOURCES and own_data.is_own(name)


def load(name: str, data_dir: str | Path, columns: Columns = NO_COLUMNS) -> list[Record]:
    """Loads a data set, see `stream`."""
    return list(stream(name, data_dir, columns))


def stream(name: str, data_dir: str | Path, columns: Columns = NO_COLUMNS) -> Iterator[Record]:
    """Yields the records of a data set such as "gsm8k/test" below `data_dir`, in file order.

    Args:
      name: of `SOURCES`; "all" for the `available` ones; "package.module:NAME" of the user's `Source`; or the user's
        own data (`own_data`): "mine.jsonl", "folder/", "hf:OWNER/NAME/SPLIT".
      data_dir: the data folder.
      columns: of the user's own data.

    Raises:
      UserError: the name is unknown, the file is missing, unreadable or empty, or a row is invalid.
    """
    data_dir = Path(data_dir)
    if is_own(name):
        yield from own_data.load(name, data_dir, columns, formats.user)
        return
    if name == ALL:
        names = available(data_dir)
        if not names:
            raise UserError(f"There is no data set in {data_dir}; set --config.data_dir, or remove '{ALL}'.")
        for each in names:
            yield from stream(each, data_dir)
        return
    source = source_of(name)
    files = source.files(data_dir)
    if not files:
        wanted = " or ".join(str(data_dir / path) for path in (source.path, source.mirror) if path)
        published = PUBLISHED.get(name.split("/")[0])
        hint = source.hint.format(data_dir=data_dir) + (f", or take it from {published}" if published else "")
        raise UserError(f"The data set '{name}' needs the file {wanted}, which is missing; {hint}.")
    record = None
    for record in (record for path in files for record in _records(source.read(path), path, name, source.parse)):
        yield record
    if record is None:
        raise UserError(f"The data set '{name}': the file {files[0]} has no records.")


def is_in_module(name: str) -> bool:
    """Whether a name is "package.module:NAME", a `Source` or a task in a user's module."""
    return ":" in name and not is_own(name)


def source_of(name: str) -> Source:
    """Returns the source of a data set.

    Raises:
      UserError: the name is unknown, or "package.module:NAME" is not a `Source`.
    """
    if is_in_module(name):
        return user_code.load(name, Source)
    if name not in SOURCES:
        known = [*SOURCES, *hub.PUBLIC]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise UserError(
            f"Unknown data set '{name}', did you mean '{nearest}'; known ones are {', '.join(sorted(known))}, "
            f"'{ALL}' for those in the data folder, and your own as mine.jsonl, mine.csv, mine.parquet, folder/, "
            "hf:OWNER/NAME/SPLIT or package.module:NAME."
        )
    return SOURCES[name]


def check_answers(records: Iterable[Record]) -> None:
    """Raises a `UserError` where a record has no answer."""
    for record in records:
        if not record.answer.strip():
            raise UserError(f"The record {record.id} has no answer to grade completions by; add it, or use other data.")


def _records(rows: Iterable[Row], path: Path, name: str, parse: Parse) -> Iterator[Record]:
    for row in rows:
        try:
            yield parse(f"{name}/{row.key}", row.fields)
        except BadField as error:
            raise UserError(f"{path}, {row.place}: {error}; fix or remove it.") from None
        except Exception as error:  # the user's `Source` may raise anything
            if not is_in_module(name):
                raise
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}, {row.place}: the parser of {name} raises {problem}; correct it.") from error
