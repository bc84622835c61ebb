"""Proves that two finished runs computed the same, bit by bit, although names changed between their commits.

    python tests/equal_runs.py runs/before runs/after

It compares every file that the stages of both workdirs leave, apart from what `kill_resume.py` leaves out as well
(seconds, event files, checkpoints kept for resuming). Keys and paths that were renamed are mapped by the tables below,
in both runs, so that a run equals itself. Of manifests only `counts` are compared: settings, versions and the hashes
of inputs may change their form. Pages, data cards and the report's definitions are prose: a change of them is printed,
but is not a difference. The exit code is 1 if anything differs, or if no parameters or no metrics were compared.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kill_resume import LEFT_OUT, contents

METRICS = {
    "groups_without_spread": "frac_reward_zero_std",
    "sampler_difference": "sampler_logprob_diff",
    "truncated": "frac_truncated",
    "dropped": "num_masked",
}
SIZES = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "hidden": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "context": "max_position_embeddings",
}
# Which keys were renamed in which files; the first pattern that matches the new path counts.
KEYS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (r"/model\.json$", SIZES),
    (r"/metrics\.jsonl$|/rollouts/.*\.npz$|^report/(report|manifest)\.json$", METRICS),
)
PATHS: tuple[tuple[str, str], ...] = ()  # regular expressions and what takes the place of their matches
SUFFIX = re.compile(r"_(first|last|min|max)$")  # the report appends these to a metric's name
PROSE = re.compile(  # of "FILE: KEY"
    r"\.html: $|^corpus/card\.md: $|^report/report\.json: definitions\b|^report/manifest\.json: counts\.definitions\b"
)

Values = dict[str, Any]  # JSON texts, arrays or bytes, by their paths inside a file: "[3].loss", "layers/q"


class Collision(Exception):
    """Two names become one when they are mapped."""


def put(values: dict[str, Any], name: str, value: Any) -> None:
    if name in values:
        raise Collision(f"two names become {name}")
    values[name] = value


def renamed(key: str, names: Mapping[str, str]) -> str:
    suffix = SUFFIX.search(key)
    stem, end = (key[: suffix.start()], suffix[0]) if suffix else (key, "")
    return names.get(key) or names.get(stem, stem) + end


def flatten(value: Any, names: Mapping[str, str], path: str = "") -> Iterator[tuple[str, str]]:
    """Yields (path, JSON text) of all numbers, texts and empty lists in a JSON value: the texts tell 1 from 1.0."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, names, f"{path}.{renamed(key, names)}" if path else renamed(key, names))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from flatten(item, names, f"{path}[{number}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def values_of(name: str, content: Any) -> Values:
    """The values of a file of `kill_resume.contents`, by their new names."""
    names = next((table for pattern, table in KEYS if re.search(pattern, name)), {})
    values: Values = {}
    if isinstance(content, dict) and name.endswith("/params"):
        return {key: np.frombuffer(data, dtype).reshape(shape) for key, (dtype, shape, data) in content.items()}
    if name.endswith(".npz"):
        with np.load(io.BytesIO(content)) as stored:
            arrays = {key: stored[key] for key in stored.files}
        facts = json.loads(str(arrays.pop("facts", "{}")))
        for key, array in arrays.items():
            put(values, renamed(key, names), array)
        content = {"facts": facts}
    elif name.endswith(".jsonl"):
        content = [json.loads(line) for line in content.splitlines()]
    elif name.endswith("/manifest.json"):
        content = {"counts": content.get("counts")}
    elif isinstance(content, bytes):
        return {"": content}
    for path, text in flatten(content, names):
        put(values, path, text)
    return values


def first_difference(old: Any, new: Any) -> str | None:
    """The first place where two values differ, in words; None if they are equal bit by bit."""
    if type(old) is not type(new):
        return f"{type(old).__name__} != {type(new).__name__}"
    if isinstance(old, bytes):
        if old == new:
            return None
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        return f"byte {same} of {len(old)} and {len(new)}"
    if isinstance(old, str):
        return None if old == new else f"{old[:200]} != {new[:200]}"
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype}{list(old.shape)} != {new.dtype}{list(new.shape)}"
    if old.tobytes() == new.tobytes():
        return None
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, array.itemsize) for array in (old, new)]
    at = int(np.flatnonzero((bits[0] != bits[1]).any(axis=1))[0])
    place = ", ".join(str(int(i)) for i in np.unravel_index(at, old.shape))
    return f"[{place}]: {old.reshape(-1)[at]!r} != {new.reshape(-1)[at]!r}"


def compare(old: Values, new: Values) -> Iterator[tuple[str, str]]:
    """Yields (key, what differs). The places in lists are one key: its first difference is shown, others counted."""
    found: dict[str, list[str]] = {}
    for path in [*old, *(path for path in new if path not in old)]:
        if path in old and path in new:
            difference = first_difference(old[path], new[path])
        else:
            difference = f"is only in the {'old' if path in old else 'new'} run"
        if difference:
            found.setdefault(re.sub(r"\[\d+\]", "[]", path), []).append(f"{path} {difference}".strip())
    for key, lines in found.items():
        yield key, lines[0] + (f" (and {len(lines) - 1} more places)" if len(lines) > 1 else "")


def read(workdir: Path) -> dict[str, Any]:
    """The files of a workdir by their new paths."""
    files: dict[str, Any] = {}
    for name, content in contents(workdir).items():
        for pattern, replacement in PATHS:
            name = re.sub(pattern, replacement, name)
        put(files, name, content)
    pages = [path.relative_to(workdir).as_posix() for path in workdir.rglob("*.html")]
    return files | {name: (workdir / name).read_bytes() for name in pages if LEFT_OUT.search(name)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the workdir of the run before the renaming")
    parser.add_argument("new", type=Path, help="the workdir of the run after it")
    args = parser.parse_args(arguments)
    for workdir in (args.old, args.new):
        if not workdir.is_dir():
            parser.error(f"there is no workdir {workdir}")

    old, new = read(args.old), read(args.new)
    differences = files = arrays = rows = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            print(f"{name}: is only in the {'old' if name in old else 'new'} run")
            differences += 1
            continue
        try:
            before, after = values_of(name, old[name]), values_of(name, new[name])
        except Collision as error:
            print(f"{name}: {error}")
            differences += 1
            continue
        files += 1
        arrays += len(before.keys() & after.keys()) if name.endswith("/params") else 0
        rows += len(old[name].splitlines()) if name.endswith("/metrics.jsonl") else 0
        for key, difference in compare(before, after):
            if PROSE.search(f"{name}: {key}"):
                print(f"{name}: not compared, and not equal: {difference}")
            else:
                print(f"{name}: {difference}")
                differences += 1

    print(
        f"{files} files compared, with {arrays} arrays of parameters and {rows} rows of metrics: "
        f"{differences or 'no'} differences"
    )
    if not arrays or not rows:
        print("Nothing is proved: the runs share no parameters or no metrics.")
    return int(differences > 0 or not arrays or not rows)


if __name__ == "__main__":
    sys.exit(main())
