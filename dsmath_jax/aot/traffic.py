"""HBM bytes of HLO instructions: what each must read and write, if nothing is kept between instructions.

An instruction reads its operands and writes its result once. Of an operand that is only sliced or gathered from, also
within a fusion, it reads those parts; of an array that is updated in place, it writes the update. An operand that a
fusion returns in its own buffer is not moved. A collective that is split into steps moves its arrays in the first.
Arrays in a TPU's on-chip memory are free, as are arrays that fit a GPU's or CPU's cache, since they may never leave it:
at least the bytes that are counted move.
"""

import dataclasses

from dsmath_jax.aot.collectives import is_later_step
from dsmath_jax.aot.hlo import ArrayType, Computation, Instruction, Program

# They move nothing themselves: what they refer to is moved by others, for a `-done` by its `-start`.
FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "opt-barrier",
    "partition-id", "replica-id", "while", "conditional", "call", "async-start", "async-update", "domain", "iota",
))  # fmt: skip
SLICES = ("dynamic-slice", "slice", "gather", "dynamic-slice-start", "slice-start")
RENAMES = ("bitcast", "get-tuple-element")
UNARY = ("pad", "convert", "copy", "transpose", "reshape", "reverse")  # their results have each element at most once


def moved_bytes(i: Instruction, scope: Computation, program: Program, cache: float) -> float:
    """Returns the bytes that an instruction moves; those of the computations that it calls are not counted.

    Args:
      cache: bytes of the chip's cache; arrays up to this size are free.
    """
    if i.opcode in FREE or i.opcode.endswith("-done"):
        return 0.0
    if i.opcode == "fusion":
        return _moved_by_fusion(i, scope, program, cache)
    operands = [(k, array) for k, name in enumerate(i.operands) for array in scope[name].arrays]
    reads = sum(_read_by(i, k, array, scope, program, cache) for k, array in operands)
    return reads + sum(_written_as(array, result, scope, program, cache) for array, result in _by_result(i, i, scope))


def _moved_by_fusion(i: Instruction, scope: Computation, program: Program, cache: float) -> float:
    inner = program.computations[i.called()[0]]
    root, aliases = next(reversed(inner.values())), i.aliases()
    moved = sum(
        _read(parameter, array, inner, program, cache)
        for operand, parameter in zip(i.operands, _parameters(inner), strict=True)
        for array in scope[operand].arrays[:1]
    )
    for k, (array, result) in enumerate(_by_result(i, root, inner)):
        if _source(result, inner).opcode == "parameter":
            moved += 0 if k in aliases else 2 * _counted(array, cache)  # a copy
        elif not (_is_async_collective(result) and k in aliases):
            moved += _written_as(array, result, inner, program, cache)
    return moved


def _counted(array: ArrayType, cache: float) -> float:
    return array.bytes if array.space == 0 and array.bytes > cache else 0.0


def _parameters(computation: Computation) -> list[Instruction]:
    found = [i for i in computation.values() if i.opcode == "parameter"]
    return sorted(found, key=lambda i: int(i.argument))


def _read(source: Instruction, array: ArrayType, scope: Computation, program: Program, cache: float) -> float:
    """Returns the bytes of `array` that the users of `source`, which stands for it in `scope`, read."""
    whole = _counted(array, cache)
    if not whole:
        return 0.0
    parts = 0.0
    for user in scope.values():
        for k, operand in enumerate(user.operands):
            if operand != source.name:
                continue
            if user.opcode in UNARY and k == 0:
                parts += whole * _share_read(user, scope, program)
            else:
                parts += _read_by(user, k, array, scope, program, cache)
    return min(whole, parts)


def _share_read(source: Instruction, scope: Computation, program: Program) -> float:
    """Returns the share of a fused instruction's array that its users read: the rest need not be computed."""
    array = dataclasses.replace(source.arrays[0], space=0)
    root = next(reversed(scope.values()))
    results = root.operands if root.opcode == "tuple" else [root.name]
    if not array.bytes or any(_source(scope[name], scope).name == source.name for name in results):
        return 1.0
    return _read(source, array, scope, program, cache=0.0) / array.bytes


def _read_by(user: Instruction, k: int, array: ArrayType, scope: Computation, program: Program, cache: float) -> float:
    """Returns the bytes of `array`, operand `k` of `user`, that it reads."""
    whole = _counted(array, cache)
    if not whole:
        return 0.0
    if user.opcode == "tuple" or _is_async_collective(user) or is_later_step(user, scope):
        return 0.0
    if user.opcode in RENAMES:
        return _read(user, array, scope, program, cache)
    if user.opcode in SLICES and k == 0:
        return min(whole, _results(user)[0].bytes)
    if user.opcode in ("dynamic-update-slice", "scatter") and k == 0:
        return 0.0  # in place
    if user.opcode == "fusion":
        inner = program.computations[user.called()[0]]
        parameter = _parameters(inner)[k]
        passed_on = _read(user, array, scope, program, cache) if _is_result(parameter, inner) else 0.0
        return min(whole, passed_on + _read(parameter, array, inner, program, cache))
    return whole


def _source(result: Instruction, scope: Computation) -> Instruction:
    """Returns the instruction of which `result` is another shape or layout at most."""
    while result.opcode in RENAMES:
        result = scope[result.operands[0]]
    return result


def _is_result(parameter: Instruction, computation: Computation) -> bool:
    return _source(next(reversed(computation.values())), computation).name == parameter.name


def _is_async_collective(i: Instruction) -> bool:
    """Returns whether this marks the start or the end of a collective in steps, and moves nothing itself."""
    return i.opcode == "custom-call" and "AsyncCollective" in i.text


def _by_result(i: Instruction, root: Instruction, scope: Computation) -> list[tuple[ArrayType, Instruction]]:
    """Returns the arrays that an instruction computes, each with the instruction in `scope` that computes it."""
    if root.opcode == "tuple":
        return [(array, scope[name]) for array, name in zip(_results(i), root.operands, strict=False)]
    return [(array, root) for array in _results(i)]


def _results(i: Instruction) -> tuple[ArrayType, ...]:
    """Returns the arrays that an instruction computes: the type of a `-start` has its operands and a context too."""
    if not i.opcode.endswith("-start"):
        return i.arrays
    return i.arrays[: len(i.arrays) // 2] if i.opcode == "copy-start" else i.arrays[len(i.operands) :]


def _written_as(array: ArrayType, result: Instruction, scope: Computation, program: Program, cache: float) -> float:
    whole = _counted(array, cache)
    if is_later_step(result, scope):
        return 0.0
    while result.opcode in ("bitcast", "convert", "copy") and result.operands:
        result = scope[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return min(whole, scope[result.operands[1]].bytes)
    if result.opcode == "scatter":
        return min(whole, scope[result.operands[-1]].bytes)
    if result.opcode == "fusion":
        inner = program.computations[result.called()[0]]
        last = next(reversed(inner.values()))
        return _written_as(array, last, inner, program, cache) if last.opcode != "tuple" else whole
    return whole
