"""An interpreter of classic BPF as seccomp runs it, so that a filter can be judged for any architecture on any machine.

A hand-written jump that was off by one once allowed every system call without a sign of it. This runs a filter over
`struct seccomp_data` (number, architecture, instruction pointer, six arguments) and says what the kernel would do. It
refuses what the kernel refuses: unknown instructions, jumps out of the program, a program without an end.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
ACTION_MASK = 0xFFFF0000

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""

_WORD = 0xFFFFFFFF


class BadProgram(Exception):
    """The kernel would not load this program."""


def decode(program: bytes | Sequence[Instruction]) -> list[Instruction]:
    """Instructions of an array of `struct sock_filter`."""
    if isinstance(program, bytes | bytearray):
        return list(struct.iter_unpack("=HBBI", program))
    return list(program)


def run(program: Sequence[Instruction], number: int, arch: int, arguments: Sequence[int] = ()) -> int:
    """What the filter returns for one system call."""
    return traced(program, number, arch, arguments)[0]


def traced(program: Sequence[Instruction], number: int, arch: int, arguments: Sequence[int] = ()) -> tuple[int, int]:
    """What the filter returns for one system call, and after how many instructions.

    Args:
        program: Instructions.
        number: Of the system call, as the kernel sees it.
        arch: An AUDIT_ARCH value.
        arguments: At most six, 64 bits each; missing ones are 0.
    """
    padded = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("=IIQ6Q", number & _WORD, arch & _WORD, 0, *padded)
    accumulator = index = 0
    memory = [0] * 16
    counter = steps = 0
    while counter < len(program):
        steps += 1
        code, jump_true, jump_false, constant = program[counter]
        counter += 1
        operand = index if code & 0x08 else constant
        match code & 0x07:
            case 0 | 1:  # LD, LDX
                value = _load(code, constant, data, memory)
                accumulator, index = (value, index) if code & 0x07 == 0 else (accumulator, value)
            case 2 | 3:  # ST, STX
                memory[constant] = accumulator if code & 0x07 == 2 else index
            case 4:
                accumulator = _compute(code & 0xF0, accumulator, operand)
            case 5 if code & 0xF0 == 0:  # JA
                counter += constant
            case 5:
                counter += jump_true if _holds(code & 0xF0, accumulator, operand) else jump_false
            case 6:
                return (accumulator if code & 0x18 == 0x10 else constant), steps
            case 7:  # TAX, TXA
                accumulator, index = (index, index) if code & 0x80 else (accumulator, accumulator)
    raise BadProgram("it ran past its end")


def _load(code: int, constant: int, data: bytes, memory: list[int]) -> int:
    match code & 0xE0:
        case 0x00:  # IMM
            return constant
        case 0x20:  # ABS
            if code & 0x18 or constant % 4 or constant + 4 > len(data):
                raise BadProgram(f"load of other than an aligned word inside the data: {constant}")
            return int(struct.unpack_from("=I", data, constant)[0])
        case 0x60:  # MEM
            return memory[constant]
        case 0x80:  # LEN
            return len(data)
    raise BadProgram(f"load {code:#x}")


def _compute(operation: int, left: int, right: int) -> int:
    operations = {
        0x00: lambda: left + right,
        0x10: lambda: left - right,
        0x20: lambda: left * right,
        0x30: lambda: left // right,
        0x40: lambda: left | right,
        0x50: lambda: left & right,
        0x60: lambda: left << right,
        0x70: lambda: left >> right,
        0x80: lambda: -left,
        0xA0: lambda: left ^ right,
    }
    if operation not in operations:
        raise BadProgram(f"arithmetic {operation:#x}")
    return operations[operation]() & _WORD


def _holds(comparison: int, left: int, right: int) -> bool:
    match comparison:
        case 0x10:
            return left == right
        case 0x20:
            return left > right
        case 0x30:
            return left >= right
        case 0x40:
            return bool(left & right)
    raise BadProgram(f"jump {comparison:#x}")


def check(program: Sequence[Instruction]) -> None:
    """Refuse what the kernel's own checker refuses.

    Raises:
        BadProgram: Too long, a jump outside, or no return at the end.
    """
    if not 0 < len(program) <= 4096:
        raise BadProgram(f"{len(program)} instructions")
    for position, (code, jump_true, jump_false, constant) in enumerate(program):
        if code & 0x07 == 5:
            furthest = constant if code & 0xF0 == 0 else max(jump_true, jump_false)
            if position + 1 + furthest >= len(program):
                raise BadProgram(f"instruction {position} jumps out of the program")
    if program[-1][0] & 0x07 != 6:
        raise BadProgram("the last instruction returns nothing")
