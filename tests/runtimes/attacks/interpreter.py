"""Attacks on the worker's own Python: what the next step relies on is broken, closed, replaced or walked through."""

from __future__ import annotations

from attacks import Attack

ANY = (None, "InterpreterExit")

_WIPE = """
import builtins
space = vars(builtins)
for name in list(space):
    del space[name]
"""

_PATCH = """
import builtins, gc, io, json, os, signal, struct
def evil(*_, **__):
    raise KeyError("patched")
for module in {modules}:
    space = vars(module)
    for name in [name for name in space if not name.startswith("__")]:
        space[name] = evil
"""

_CODE = """
import gc, types
def evil(*_, **__):
    return "evil"
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and thing.__module__ not in ("__main__", "tools", None):
        try:
            thing.__code__ = evil.__code__
        except ValueError:
            pass
"""

_GLOBALS = """
import gc
for thing in gc.get_objects():
    if type(thing) is dict and "__spec__" in thing and "_call" not in thing and thing is not globals():
        for name in list(thing):
            if not name.startswith("__"):
                thing[name] = None
"""

_WALK = """
import gc, sys
found = []
frame = sys._getframe()
while frame:
    found.append(dict(frame.f_locals))
    found.append({k: v for k, v in frame.f_globals.items()})
    frame = frame.f_back
marks = ("KEEPSTATE" "_TEST_SECRET", "hidden-" "answer-")
def holds(thing):
    return isinstance(thing, str) and any(mark in thing for mark in marks)
for thing in gc.get_objects() + found:
    if isinstance(thing, dict) and thing is not globals():
        for key, value in list(thing.items()):
            if (holds(key) or holds(value)) and key not in ("marks", "code", "source"):
                print("BREACH", key)
print("refused", len(found))
"""

_TOOLS = """
seen = set()
def walk(thing, depth=0):
    if id(thing) in seen or depth > 6:
        return
    seen.add(id(thing))
    for name in ("__closure__", "__globals__", "__self__", "__func__", "__wrapped__", "__dict__", "cell_contents"):
        value = getattr(thing, name, None)
        for inner in (value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]):
            if type(inner).__name__ in ("Toolbox", "ToolGate", "Environment"):
                print("BREACH", inner)
            walk(inner, depth + 1)
for tool in (echo, add, nothing):
    walk(tool)
print("refused", len(seen))
"""

_PICKLED = """
import base64, pickle
class Surprise:
    def __reduce__(self):
        return (os.system, ("touch /tmp/surprise",))
tried("object", lambda: echo(Surprise()))
tried("bytes", lambda: echo(pickle.dumps(Surprise())))
text = base64.b64encode(pickle.dumps(Surprise())).decode()
print("refused" if echo(text) == text else "BREACH")
tagged = {"py/object": "os.system", "__reduce__": ["x"]}
print("refused" if echo(tagged) == tagged else "BREACH")
"""

_ODD_ERRORS = """
class Meta(type):
    @property
    def __name__(cls):
        raise KeyError("name")
    __qualname__ = __module__ = 5
class Odd(Exception, metaclass=Meta):
    __traceback__ = __cause__ = __context__ = 5
    def __str__(self):
        raise KeyError("str")
    __repr__ = __str__
raise Odd()
"""

ATTACKS = (
    Attack("wipe the builtins", _WIPE, shows=""),
    Attack("patch the builtins and json", _PATCH.format(modules="(json, struct, builtins)"), shows=""),
    Attack(
        "patch all that the loop may use",
        _PATCH.format(modules="(io, gc, signal, os, builtins)"),
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "replace the code of every function",
        _CODE,
        shows="",
        ends=(*ANY, "TimeLimit", "AttributeError", "TypeError"),
        lost=None,
        seconds=0.5,
    ),
    Attack(
        "empty every module",
        _GLOBALS,
        shows="",
        ends=(*ANY, "TimeLimit", "TypeError", "AttributeError"),
        lost=None,
        seconds=0.5,
    ),
    Attack(
        "empty sys.modules",
        """
import sys
sys.modules.clear()
""",
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "unload what is there",
        """
import sys
for name in list(sys.modules):
    sys.modules[name] = None
""",
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "no __main__",
        """
import sys
sys.modules['__main__'] = None
__name__ = 'evil'
del __builtins__
""",
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "other builtins",
        """
__builtins__ = {}
""",
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "streams closed",
        """
import sys
sys.stdout.close()
sys.stderr.close()
""",
        shows="",
        ends=(None, "ValueError"),
    ),
    Attack(
        "streams gone",
        """
import sys
sys.stdout = sys.stderr = sys.stdin = None
del sys.__stdout__
""",
        shows="",
        ends=(None, "AttributeError"),
    ),
    Attack(
        "streams replaced",
        """
import sys
class S:
    def write(self, t): 1 / 0
    flush = close = write
sys.stdout = sys.stderr = S()
""",
        shows="",
        ends=(None, "ZeroDivisionError", "TypeError"),
    ),
    Attack(
        "tracing that raises",
        """
import sys
def trace(*_): raise KeyError('trace')
sys.settrace(trace)
sys.setprofile(trace)
""",
        shows="",
        ends=(None, "KeyError"),
    ),
    Attack(
        "garbage collector that raises",
        """
import gc
gc.callbacks.append(lambda *_: 1 / 0)
gc.disable()
gc.set_threshold(1)
""",
        shows="",
    ),
    Attack(
        "a low recursion limit",
        """
import sys
sys.setrecursionlimit(30)
""",
        shows="",
        ends=(None, "RecursionError"),
    ),
    Attack(
        "finders of modules",
        """
import sys
class F:
    def find_spec(self, *_): os._exit(1)
sys.meta_path.insert(0, F())
sys.path[:] = ['/tmp']
sys.path_importer_cache.clear()
""",
        shows="",
        ends=ANY,
        lost=None,
    ),
    Attack(
        "all descriptors closed",
        """
os.closerange(0, 1024)
print('closed')
""",
        shows="interpreter|exit",
        ends=("InterpreterExit",),
        lost=True,
    ),
    Attack(
        "the channel replaced",
        """
r, w = os.pipe()
for fd in range(3, 20):
    try:
        os.dup2(w, fd)
    except OSError:
        pass
print('replaced')
""",
        shows="interpreter|ran longer",
        ends=("InterpreterExit", "TimeLimit"),
        lost=True,
        seconds=0.5,
    ),
    Attack("walk frames and objects", _WALK, seconds=20),
    Attack("walk the tools", _TOOLS),
    Attack("pickled surprises", _PICKLED),
    Attack(
        "errors without a name",
        _ODD_ERRORS,
        shows="Odd|KeyError|error|TypeError",
        ends=("Odd", "KeyError", "Exception", "TypeError"),
        lost=False,
    ),
    Attack(
        "a tool that calls itself",
        """
for name in ('echo', 'add'):
    globals()[name] = lambda *a: globals()[name](*a)
tried('own', lambda: echo(1))
""",
        ends=(None, "RecursionError"),
    ),
    Attack(
        "tools by other names",
        """
tried('verdict', lambda: verdict())
tried('class', lambda: type(echo)('__init__')())
tried('tool', lambda: echo.__class__('secret')())
""",
    ),
)
