"""Runs a Python file in the sandbox, or reports which mechanisms contain programs on this machine.

python -m dsmath_jax.grading.sandbox --probe
python -m dsmath_jax.grading.sandbox FILE.py
"""

import argparse
import json
import sys
from pathlib import Path

from dsmath_jax.grading.sandbox import Program, Sandbox
from dsmath_jax.workdir import UserError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dsmath_jax.grading.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a Python program")
    parser.add_argument("--probe", action="store_true", help="only print which mechanisms work on this machine")
    parser.add_argument("--call", default="", help="a function of the program to call after it has run")
    parser.add_argument("--allow-unsandboxed", action="store_true", help="run it even if nothing contains it")
    arguments = parser.parse_args()
    if arguments.probe == (arguments.file is not None):
        parser.error("give a file or --probe")
    try:
        code = "" if arguments.probe else _text(arguments.file)
        with Sandbox(1, allow_unsandboxed=arguments.allow_unsandboxed) as sandbox:
            if arguments.probe:
                print("\n".join([sandbox.level, *(f"no {name}: {why}" for name, why in sandbox.missing.items())]))
                return 0
            [ran] = sandbox.run([Program(code, arguments.call)])
    except UserError as error:
        print(error, file=sys.stderr)
        return UserError.code
    sys.stdout.write(ran.output)
    summary = {"how": ran.status, "value": ran.value, "error": ran.error, "seconds": round(ran.seconds, 3)}
    print(json.dumps(summary | {"level": sandbox.level}, ensure_ascii=False), file=sys.stderr)
    return 0 if ran.status == "ok" else 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the program {path} cannot be read: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
