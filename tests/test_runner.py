"""What the runner runs, skips, resumes and refuses, with stages that write a line."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from dsmath_jax import runner
from dsmath_jax.runner import Stage
from dsmath_jax.settings import setting
from dsmath_jax.workdir import FORMAT, UserError, lock, read_json, write_json


class Killed(BaseException):
    """Stands for a kill: nothing catches it on its way out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    fsdp: int = setting(1, "shards")


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    rows: int = setting(3, "rows that the stage writes")
    names: tuple[str, ...] = setting(("a", "b"), "their names")
    reward_fns: tuple[tuple[str, float], ...] = setting((("correct", 1.0),), "names and weights")
    mesh: Mesh = setting(Mesh(), "how devices are arranged", changes_result=False)
    grad_accum_steps: int = setting(1, "micro-batches of a step", changes_result=False)
    keep_checkpoints: int = setting(1, "checkpoints kept", changes_result=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second:
    rate: float = setting(0.5, "a rate")
    extra: int | None = setting(None, "what not every recipe has")
    steps: int = setting(2, "lines that the stage writes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    seed: int = setting(0, "of everything that is drawn")
    start: str = setting("", "another run's workdir", changes_result=False)
    first: First | None = setting(None, "stage first")
    second: Second | None = setting(None, "stage second")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(first=First(), second=Second())


class Project:
    """Three stages, `first` <- `second` and `third`, which is always rerun, and a record of which of them ran."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.ran: list[str] = []
        self.killed_in = ""
        self.reason = ""  # why the second stage cannot be extended
        self.checked: list[Recipe] = []
        self.stages = (
            Stage(
                "first", self.first, ("first",), lambda recipe: (), ("out/*",),
                input_files=lambda recipe, workdir: [workdir.parent / "seeds.txt"], check=self.check,
            ),
            Stage(
                "second", self.second, ("second",), lambda recipe: ("first",), ("*.txt",), check=self.check,
                logs=("logs/**/*",), why_not_extendable=lambda recipe, workdir, steps: self.reason,
            ),
            Stage("third", self.third, (), lambda recipe: (), ("*.txt",), always_rerun=True),
        )  # fmt: skip

    def run(self, recipe: Recipe, names: str = "first second third", overwrite: str = "") -> list[str]:
        self.ran.clear()
        runner.run(self.stages, recipe, self.workdir, names.split(), overwrite.split())
        return list(self.ran)

    def plan(self, recipe: Recipe, names: str = "first second third", overwrite: str = "") -> list[str]:
        """What would be done with each stage, or why it is refused."""
        planned = runner.plan(self.stages, recipe, self.workdir, names.split(), overwrite.split())
        return [str(one.error or one.action) for one in planned]

    def text(self, path: str) -> str:
        return (self.workdir / path).read_text()

    def check(self, recipe: Recipe, workdir: Path) -> None:
        self.checked.append(recipe)
        if recipe.second and recipe.second.rate < 0:
            raise UserError("second.rate is negative; give another.")

    def first(self, recipe: Recipe, workdir: Path) -> dict:
        return self.write("first", workdir / "first" / "out" / "rows.txt", f"{recipe.first.rows} rows of {recipe.seed}")

    def second(self, recipe: Recipe, workdir: Path) -> dict:
        text = (workdir / "first" / "out" / "rows.txt").read_text()
        return self.write("second", workdir / "second" / "model.txt", f"{text} at {recipe.second.rate}")

    def third(self, recipe: Recipe, workdir: Path) -> dict:
        return self.write("third", workdir / "third" / "page.txt", "page")

    def write(self, name: str, path: Path, text: str) -> dict:
        self.ran.append(name)
        before = path.read_text() if path.is_file() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before or text)  # as real stages do: what is there is taken over
        if name == self.killed_in:
            raise Killed
        return {"letters": len(text)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "run")


def changed(recipe: Recipe, **fields: object) -> Recipe:
    """The recipe with fields changed, which are named as `first__rows`."""
    for name, value in fields.items():
        part, _, field = name.rpartition("__")
        value = dataclasses.replace(getattr(recipe, part), **{field: value}) if part else value
        recipe = dataclasses.replace(recipe, **{part or field: value})
    return recipe


def test_runs_in_order_and_says_what_it_did(project, recipe, capsys):
    assert project.run(recipe, "third second first") == ["first", "second", "third"]
    assert project.text("second/model.txt") == "3 rows of 0 at 0.5"
    manifest = read_json(project.workdir / "first" / "manifest.json")
    assert manifest["stage"] == "first"
    assert manifest["counts"] == {"letters": 11}
    assert manifest["format"] == FORMAT
    assert manifest["config"] == {
        "seed": 0, "first.rows": 3, "first.names": ["a", "b"], "first.reward_fns": [["correct", 1.0]]
    }  # fmt: skip
    assert manifest["inputs"] == {}
    assert manifest["seconds"] >= 0
    assert {"python", "jax"} <= manifest["versions"].keys()
    assert list(read_json(project.workdir / "second" / "manifest.json")["inputs"]) == ["first"]
    assert "first: started\nfirst: done in" in capsys.readouterr().out


def test_complete_stages_are_skipped_and_derived_ones_made_again(project, recipe, capsys):
    project.run(recipe)
    assert project.run(recipe) == ["third"]
    assert "second: complete, skipped" in capsys.readouterr().out


def test_a_changed_file_of_the_user_is_noticed(project, recipe):
    seeds = project.workdir.parent / "seeds.txt"
    project.run(recipe)
    seeds.write_text("one")
    with pytest.raises(UserError, match=r"seeds\.txt was changed"):
        project.run(recipe)
    assert project.run(recipe, overwrite="first") == ["first", "second", "third"]
    assert project.run(recipe) == ["third"]


def test_parts_that_a_stage_does_not_see_may_change(project, recipe):
    project.run(recipe)
    assert project.run(changed(recipe, second__rate=0.25), "first") == []


@pytest.mark.parametrize(
    "change",
    [{"mesh": Mesh(fsdp=2)}, {"grad_accum_steps": 2}, {"keep_checkpoints": 2}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_nothing_but_rounding_may_change(project, recipe, change):
    project.run(recipe)
    other = changed(recipe, **{f"first__{name}": value for name, value in change.items()})
    assert project.run(other) == ["third"]
    with pytest.raises(UserError, match=r"\(first\.rows was 3, is 4\)"):
        project.run(changed(other, first__rows=4))
    project.killed_in = "first"
    with pytest.raises(Killed):
        project.run(recipe, overwrite="first")
    project.killed_in = ""
    assert project.run(other) == ["first", "third"]  # it resumes, and leaves what it left before


def test_changed_config_is_refused_by_name_and_redone_when_asked(project, recipe):
    project.run(recipe)
    other = changed(recipe, first__rows=4, first__names=("a",))
    with pytest.raises(UserError) as caught:
        project.run(other)
    message = str(caught.value)
    assert "Stage first" in message
    assert "first.names was ['a', 'b'], is ['a']; first.rows was 3, is 4" in message
    assert "--overwrite=first" in message
    assert project.ran == []
    assert project.text("first/out/rows.txt") == "3 rows of 0"

    assert project.run(other, overwrite="first") == ["first", "second", "third"]
    assert project.text("second/model.txt") == "4 rows of 0 at 0.5"
    assert project.run(other) == ["third"]


def test_stages_that_read_a_redone_one_are_refused_later(project, recipe):
    project.run(recipe)
    other = changed(recipe, first__rows=4)
    assert project.run(other, "first", overwrite="first") == ["first"]
    with pytest.raises(UserError, match=r"Stage second .*the files of first have changed.*--overwrite=second"):
        project.run(other)


def test_a_new_field_of_the_config_counts_as_a_change(project, recipe):
    project.run(recipe)
    with pytest.raises(UserError, match=r"Stage second .*second\.extra was None, is 1"):
        project.run(changed(recipe, second__extra=1))


def test_a_killed_stage_resumes_with_its_files(project, recipe):
    project.killed_in = "second"
    with pytest.raises(Killed):
        project.run(recipe)
    (project.workdir / "second" / "model.txt").write_text("half done")
    (project.workdir / "second" / ".rows.1234.tmp").touch()
    project.killed_in = ""
    assert project.run(recipe) == ["second", "third"]
    assert project.text("second/model.txt") == "half done"
    assert not (project.workdir / "second" / ".rows.1234.tmp").exists()


def test_a_killed_stage_is_not_resumed_with_another_config(project, recipe):
    project.killed_in = "second"
    with pytest.raises(Killed):
        project.run(recipe)
    project.killed_in = ""
    other = changed(recipe, second__rate=0.25)
    with pytest.raises(UserError, match=r"Stage second .*second\.rate was 0\.5, is 0\.25.*--overwrite=second"):
        project.run(other)
    assert project.run(other, overwrite="second") == ["second", "third"]
    assert project.text("second/model.txt") == "3 rows of 0 at 0.25"


def test_a_stage_whose_redoing_fails_on_bad_input_keeps_what_it_was(project, recipe):
    """What a stage finds out only when it reads its data, such as examples that are all too long."""
    project.run(recipe)
    other = changed(recipe, first__rows=4)
    first = project.first

    def refuse(recipe: Recipe, workdir: Path) -> dict:
        raise UserError("no example fits")

    def refuse_later(recipe: Recipe, workdir: Path) -> dict:
        first(recipe, workdir)
        raise UserError("row 5 cannot be read")

    project.stages = (dataclasses.replace(project.stages[0], run=refuse), *project.stages[1:])
    with pytest.raises(UserError, match="no example fits"):
        project.run(other, overwrite="first")
    assert project.text("first/out/rows.txt") == "3 rows of 0"
    assert project.plan(recipe) == ["complete", "complete", "redo"]
    assert sorted(path.name for path in project.workdir.iterdir()) == [".lock", "first", "second", "third"]
    project.stages = (dataclasses.replace(project.stages[0], run=refuse_later), *project.stages[1:])
    with pytest.raises(UserError, match="row 5"):
        project.run(other, overwrite="first")
    assert project.text("first/out/rows.txt") == "4 rows of 0"
    assert project.plan(other)[0] == "resume"


@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "while removing"])
def test_a_kill_while_files_are_dropped_leaves_nothing_strange(project, recipe, monkeypatch, moment):
    project.run(recipe)
    other = changed(recipe, first__rows=4)

    def replace(source: object, target: object) -> None:
        if moment == "after the rename":
            real_replace(source, target)
        raise Killed

    def rmtree(path: Path) -> None:
        for file in (path / "out").iterdir():
            file.unlink()
        raise Killed

    real_replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree) if moment == "while removing" else patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            project.run(other, overwrite="first")
    assert project.run(other, overwrite="first") == ["first", "second", "third"]
    assert project.text("second/model.txt") == "4 rows of 0 at 0.5"
    assert sorted(path.name for path in project.workdir.iterdir()) == [".lock", "first", "second", "third"]


def test_a_missing_earlier_stage_is_named_before_anything_is_written(project, recipe):
    with pytest.raises(
        UserError, match=r"Stage second reads stage first, which is not complete .*add first to --stages"
    ):
        project.run(recipe, "second third")
    project.killed_in = "first"
    with pytest.raises(Killed):
        project.run(recipe)
    before = sorted(project.workdir.rglob("*"))
    with pytest.raises(UserError, match="Stage second reads stage first"):
        project.run(recipe, "second")
    assert sorted(project.workdir.rglob("*")) == before


def test_a_missing_part_of_the_config_is_named_before_anything_is_written(project):
    with pytest.raises(UserError, match="The recipe has no section 'second', which stage second needs; add it"):
        project.run(Recipe(first=First()))
    assert not project.workdir.exists()


def test_overwriting_a_stage_that_is_not_run_is_refused(project, recipe):
    with pytest.raises(UserError, match=r"--overwrite=first .*add first to --stages"):
        project.run(recipe, "third", overwrite="first")


def test_a_stage_sees_only_its_own_parts(project, recipe):
    seen = []

    def adds(recipe: Recipe, workdir: Path) -> dict:
        seen.append(recipe)
        recipe.first = First()
        return {}

    stage = Stage("second", adds, ("second",), lambda recipe: (), ())
    with pytest.raises(dataclasses.FrozenInstanceError, match="first"):
        runner.run([stage], recipe, project.workdir, ["second"], [])
    assert seen == [dataclasses.replace(recipe, start=None, first=None)]
    assert not (project.workdir / "second" / "manifest.json").exists()


def test_a_workdir_in_use_is_refused(project, recipe):
    with lock(project.workdir), pytest.raises(UserError, match="is in use by process"):
        project.run(recipe)
    assert project.ran == []
    assert project.run(recipe) == ["first", "second", "third"]


def test_tuples_in_tuples_are_the_same_settings_when_read_again(project, recipe):
    fns = (("correct", 1.0), ("format", 0.5))
    project.run(changed(recipe, first__reward_fns=fns))
    assert project.run(changed(recipe, first__reward_fns=fns)) == ["third"]
    with pytest.raises(UserError, match=r"first\.reward_fns was \[\['correct', 1\.0\], \['format', 0\.5\]\], is"):
        project.run(changed(recipe, first__reward_fns=fns[::-1]))


def built_on(recipe: Recipe, workdir: Path) -> Recipe:
    return dataclasses.replace(recipe, start=str(workdir))


def test_a_run_builds_on_the_finished_stages_of_another(project, recipe, tmp_path):
    project.run(recipe)
    other = Project(tmp_path / "other")
    for _ in range(2):
        other.run(built_on(recipe, project.workdir), "second third")
    assert (other.workdir / "first").resolve() == (project.workdir / "first").resolve()
    assert not (other.workdir / "second").is_symlink()
    assert other.text("second/model.txt") == project.text("second/model.txt")
    with pytest.raises(UserError, match=r"Stage first in .*other belongs to another run, .*run it there"):
        other.run(recipe, "first")


def test_a_start_that_cannot_be_built_on_is_refused(project, recipe, tmp_path):
    with pytest.raises(UserError, match=r"config\.start=.*nothing has no finished stage"):
        project.run(built_on(recipe, tmp_path / "nothing"), "second")
    project.run(recipe)
    other = Project(tmp_path / "other")
    other.run(recipe)
    with pytest.raises(UserError, match=r"Stage first in .*other is not that of config\.start="):
        other.run(built_on(recipe, project.workdir), "second third")


FORMATS = {
    "none": ({}, "0.1"),
    "none, with a version": ({"versions": {"dsmath-jax": "0.0.9"}}, "0.0.9"),
    "older": ({"format": FORMAT - 1, "versions": {"dsmath-jax": "0.2.0"}}, "0.2.0"),
    "newer": ({"format": FORMAT + 1, "versions": {"dsmath-jax": "9.0"}}, "9.0"),
}


def of_another_format(workdir: Path, file: str, fields: dict) -> None:
    """A stage `first` as another version left it."""
    write_json(workdir / "first" / file, {"config": {"seed": 0}, "inputs": {}, "files": {}, "results": "0"} | fields)
    (workdir / "first" / "rows.txt").write_text("3 rows of 0")


def contents(folder: Path) -> dict[str, str | None]:
    return {str(path): path.read_text() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("file", ["manifest.json", "started.json"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_workdir_of_another_format_is_refused_before_anything_is_written(project, recipe, kind, file):
    fields, version = FORMATS[kind]
    of_another_format(project.workdir, file, fields)
    before = contents(project.workdir)
    for asked in ({}, {"overwrite": "first"}, {"names": "third"}):
        with pytest.raises(UserError) as caught:
            project.run(recipe, **asked)
        sentence = str(caught.value)
        assert f"{project.workdir / 'first'} was made by dsmath-jax {version}, whose workdirs version" in sentence
        assert sentence.endswith("cannot read; give another --workdir, or use that version.")
        assert "\n" not in sentence
    assert project.ran == []
    assert contents(project.workdir) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_a_start_of_another_format_is_refused_before_anything_is_written(project, recipe, kind, tmp_path):
    fields, version = FORMATS[kind]
    of_another_format(tmp_path / "old", "manifest.json", fields)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"old/first was made by dsmath-jax {version}, whose workdirs version"):
        project.run(built_on(recipe, tmp_path / "old"), "second third")
    assert contents(tmp_path) == before


def test_the_format_is_written_before_and_after_the_work(project, recipe):
    project.killed_in = "first"
    with pytest.raises(Killed):
        project.run(recipe)
    started = json.loads(project.text("first/started.json"))
    assert started["format"] == FORMAT
    project.killed_in = ""
    project.run(recipe)
    assert json.loads(project.text("first/manifest.json")).items() >= started.items()


# --- what is known before the first stage starts ---


def test_every_stage_is_checked_before_the_first_one_starts(project, recipe):
    invalid = changed(recipe, second__rate=-1.0)
    with pytest.raises(UserError, match=r"^second\.rate is negative"):
        project.run(invalid, "second first")
    assert not project.workdir.exists()
    assert project.run(recipe) == ["first", "second", "third"]  # nothing was written that the valid value would change


def test_a_check_sees_all_parts_of_the_stages_that_are_run(project, recipe):
    project.run(recipe, "first")
    assert project.checked == [dataclasses.replace(recipe, second=None)]
    project.checked.clear()
    project.run(recipe)
    assert project.checked == [recipe]  # of the second stage: the first is complete, and its inputs may be gone


def test_the_plan_says_what_is_done_with_each_stage_and_writes_nothing(project, recipe):
    assert project.plan(recipe) == ["to do"] * 3
    assert not project.workdir.exists()
    project.killed_in = "second"
    with pytest.raises(Killed):
        project.run(recipe)
    project.killed_in = ""
    before = contents(project.workdir)
    assert project.plan(recipe) == ["complete", "resume", "to do"]
    assert project.plan(recipe, overwrite="first") == ["redo", "resume", "to do"]
    first, second, third = project.plan(changed(recipe, first__rows=4, second__rate=-1.0))
    assert first.startswith("Stage first in")
    assert "first.rows was 3, is 4" in first
    assert "second.rate was 0.5, is -1.0" in second
    assert third == "to do"
    assert contents(project.workdir) == before
    project.run(recipe)
    assert project.plan(recipe) == ["complete", "complete", "redo"]
    assert project.plan(changed(recipe, second__steps=3)) == ["complete", "extend", "redo"]


def test_the_plan_of_a_run_that_builds_on_another_makes_no_links(project, recipe, tmp_path):
    project.run(recipe)
    other = Project(tmp_path / "other")
    assert other.plan(built_on(recipe, project.workdir), "second third") == ["to do", "to do"]
    assert not other.workdir.exists()


def test_a_stage_that_reads_none_that_comes_before_it_is_refused(project, recipe):
    first, second, _ = project.stages
    misspelt = [first, dataclasses.replace(second, depends_on=lambda recipe: ("frst",))]
    with pytest.raises(UserError, match=r"^Stage second reads 'frst', which must be an earlier stage \(the nearest is"):
        runner.run(misspelt, recipe, project.workdir, [], [])
    later = [dataclasses.replace(first, depends_on=lambda recipe: ("second",)), second]
    with pytest.raises(UserError, match=r"^Stage first reads 'second', which must be an earlier stage"):
        runner.run(later, recipe, project.workdir, [], [])
    assert not project.workdir.exists()


def test_many_changes_are_counted(project, recipe):
    seeds = [project.workdir.parent / f"{number}.txt" for number in range(20)]
    for path in seeds:
        path.write_text("one")
    stage = dataclasses.replace(project.stages[0], input_files=lambda recipe, workdir: seeds)
    runner.run([stage], recipe, project.workdir, [], [])
    for path in seeds:
        path.write_text("two")
    with pytest.raises(UserError, match=r"0\.txt was changed; .*; and 15 more\)") as caught:
        runner.run([stage], recipe, project.workdir, [], [])
    assert str(caught.value).count("was changed") == 5


# --- a stage that has not come far ---


def begin(project: Project, recipe: Recipe, *files: str) -> None:
    """Leaves the second stage as a run that was killed in it, with these files and nothing else."""
    project.run(recipe, "first")
    project.killed_in = "second"
    with pytest.raises(Killed):
        project.run(recipe, "second")
    project.killed_in = ""
    (project.workdir / "second" / "model.txt").unlink()
    for name in files:
        (project.workdir / "second" / name).parent.mkdir(exist_ok=True)
        (project.workdir / "second" / name).write_text("a row")


def test_a_stage_with_nothing_but_logs_takes_new_settings(project, recipe):
    begin(project, recipe, "logs/metrics.jsonl", "logs/deep.txt")
    (project.workdir / "second" / "empty.jsonl").touch()
    other = changed(recipe, second__rate=0.25)
    assert project.plan(other) == ["complete", "redo", "to do"]
    assert project.run(other, "second") == ["second"]
    assert project.text("second/model.txt") == "3 rows of 0 at 0.25"
    assert not (project.workdir / "second" / "logs").exists()
    assert not (project.workdir / "second" / "empty.jsonl").exists()


def test_a_stage_with_rows_takes_none(project, recipe):
    begin(project, recipe, "logs/metrics.jsonl", "rows.jsonl")
    with pytest.raises(UserError, match=r"second\.rate was 0\.5, is 0\.25.*--overwrite=second"):
        project.run(changed(recipe, second__rate=0.25), "second")
    assert project.text("second/rows.jsonl") == "a row"


# --- more steps ---


def test_more_steps_extend_a_stage_that_is_complete_or_not(project, recipe):
    project.run(recipe)
    path = project.workdir / "second" / "model.txt"
    path.write_text("two steps")
    longer = changed(recipe, second__steps=3)
    project.killed_in = "second"
    with pytest.raises(Killed):
        project.run(longer)
    assert not (project.workdir / "second" / "manifest.json").exists()
    assert project.plan(longer) == ["complete", "resume", "redo"]
    project.killed_in = ""
    assert project.run(changed(recipe, second__steps=4)) == ["second", "third"]
    assert path.read_text() == "two steps"  # what was there was kept all the time
    assert read_json(project.workdir / "second" / "manifest.json")["config"]["second.steps"] == 4
    assert project.plan(changed(recipe, second__steps=4)) == ["complete", "complete", "redo"]


def test_fewer_steps_are_refused_and_more_steps_with_other_changes(project, recipe):
    project.run(recipe)
    with pytest.raises(UserError, match=r"made with other settings \(second\.steps was 2, is 1\): give --overwrite"):
        project.run(changed(recipe, second__steps=1))
    with pytest.raises(UserError, match=r"\(second\.rate was 0\.5, is 0\.25; second\.steps was 2, is 3\): give"):
        project.run(changed(recipe, second__steps=3, second__rate=0.25))
    assert project.run(changed(recipe, second__steps=3), overwrite="second") == ["second", "third"]
    assert project.text("second/model.txt") == "3 rows of 0 at 0.5"  # from scratch


def test_the_reason_why_a_stage_cannot_be_extended_is_given(project, recipe):
    project.run(recipe)
    project.reason = "its learning rates were others"
    with pytest.raises(UserError) as caught:
        project.run(changed(recipe, second__steps=3))
    assert str(caught.value) == (
        f"Stage second in {project.workdir} was made with fewer steps (second.steps was 2, is 3) and cannot be "
        "extended, since its learning rates were others: give --overwrite=second to redo it and the stages after it, "
        "or another --workdir."
    )


def test_what_reads_an_extended_stage_is_refused_before_that_is_extended(project, recipe):
    reads = Stage("third", project.third, (), lambda recipe: ("second",), ("*.txt",))
    project.stages = (*project.stages[:2], reads)
    project.run(recipe)
    longer = changed(recipe, second__steps=3)
    with pytest.raises(UserError, match=r"^Stage third in .* \(the files of second will change\): give --overwrite"):
        project.run(longer)
    assert project.ran == []
    assert project.run(longer, "first second") == ["second"]
    (project.workdir / "second" / "model.txt").write_text("other parameters")
    assert project.run(longer, overwrite="third") == ["third"]
