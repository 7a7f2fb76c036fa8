"""The BPF interpreter itself: on small programs with known outcomes, and on the one that was off by one."""

import pytest
from bpf import ALLOW, ERRNO, KILL_PROCESS, BadProgram, check, decode, run

LOAD, EQUAL, GREATER, AT_LEAST, ANY_BIT, JUMP, AND, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x54, 0x06
ALLOW_ONE = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 39), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | 1)]
OFF_BY_ONE = [(LOAD, 0, 0, 0), (EQUAL, 0, 0, 39), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | 1)]


def test_one_call_is_allowed_and_others_are_not() -> None:
    assert run(ALLOW_ONE, 39, 0) == ALLOW
    assert run(ALLOW_ONE, 40, 0) == ERRNO | 1


def test_the_jump_that_was_off_by_one_is_seen() -> None:
    assert run(OFF_BY_ONE, 40, 0) == ALLOW


def test_architecture_arguments_masks_and_jumps() -> None:
    program = [
        (LOAD, 0, 0, 4),  # architecture
        (EQUAL, 1, 0, 7),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, 16 + 8),  # low word of the second argument
        (AND, 0, 0, 0xF0),
        (ANY_BIT, 0, 1, 0x10),
        (JUMP, 0, 0, 1),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO),
    ]
    check(program)
    assert run(program, 0, 8) == KILL_PROCESS
    assert run(program, 0, 7, (0, 0xE5)) == ALLOW
    assert run(program, 0, 7, (0, 0x15)) == ERRNO


@pytest.mark.parametrize(("code", "left", "right", "holds"), [
    (GREATER, 5, 5, False), (GREATER, 6, 5, True), (AT_LEAST, 5, 5, True), (AT_LEAST, 4, 5, False),
    (AT_LEAST, 0x40000001, 0x40000000, True),
])  # fmt: skip
def test_comparisons_are_unsigned(code: int, left: int, right: int, holds: bool) -> None:
    program = [(LOAD, 0, 0, 0), (code, 0, 1, right), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO)]
    assert (run(program, left, 0) == ALLOW) is holds


def test_bytes_are_decoded_in_the_kernels_layout() -> None:
    raw = bytes.fromhex("2000000000000000060000000000ff7f")
    assert decode(raw) == [(LOAD, 0, 0, 0), (RETURN, 0, 0, ALLOW)]


@pytest.mark.parametrize("program", [
    [], [(LOAD, 0, 0, 0)], [(EQUAL, 1, 0, 0), (RETURN, 0, 0, 0)], [(JUMP, 0, 0, 5), (RETURN, 0, 0, 0)],
])  # fmt: skip
def test_what_the_kernel_would_not_load_is_refused(program: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(BadProgram):
        check(program)


def test_a_load_outside_the_data_is_refused() -> None:
    with pytest.raises(BadProgram):
        run([(LOAD, 0, 0, 64), (RETURN, 0, 0, 0)], 0, 0)
