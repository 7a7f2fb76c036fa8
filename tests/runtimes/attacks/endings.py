"""Attacks by how a block ends: errors that lie about themselves, hooks, and interpreters that end."""

from __future__ import annotations

from attacks import Attack

_ODD_ATTRIBUTES = """
class Odd(Exception):
    def __getattribute__(self, name):
        raise KeyError(name)
    __class__ = property(lambda self: 1 / 0)
raise Odd()
"""

_FILENAMES = """
exec(compile("def f():\\n    return 1 / 0", "/etc/passwd", "exec"))
try:
    f()
except ZeroDivisionError as error:
    import linecache
    linecache.cache["/etc/passwd"] = (1, None, ["BREACH"] * 9, "/etc/passwd")
    raise
"""

ATTACKS = (
    Attack(
        "hooks",
        """
import sys
def evil(*_): os._exit(1)
sys.displayhook = sys.excepthook = sys.unraisablehook = evil
1 / 0
""",
        shows="ZeroDivision",
        ends=("ZeroDivisionError",),
    ),
    Attack(
        "display hook",
        """
import sys
sys.displayhook = lambda v: print('mine', v)
7
""",
        shows="mine|7",
    ),
    Attack(
        "errors without attributes",
        _ODD_ATTRIBUTES,
        shows="",
        ends=("Odd", "KeyError", "Exception", "ZeroDivisionError"),
    ),
    Attack(
        "errors that are no exceptions",
        """
class B(BaseException): pass
raise B('odd')
""",
        shows="odd",
        ends=("B",),
    ),
    Attack("lines of other files", _FILENAMES, shows="ZeroDivisionError", ends=("ZeroDivisionError",)),
    Attack(
        "exit with an object",
        """
class X:
    def __repr__(self): os._exit(9)
    __str__ = __repr__
raise SystemExit(X())
""",
        shows="exit",
        ends=("SystemExit", "InterpreterExit"),
        lost=None,
    ),
    Attack("os._exit", "os._exit(0)", shows="interpreter", ends=("InterpreterExit",), lost=True),
    Attack("abort", "os.abort()", shows="interpreter", ends=("InterpreterExit",), lost=True),
    Attack(
        "fatal signal",
        """
import signal
for number in (11, 6, 31, 9):
    os.kill(os.getpid(), number)
    signal.raise_signal(number)
""",
        shows="",
        ends=("InterpreterExit", "PermissionError", "OSError", None),
        lost=None,
    ),
)
