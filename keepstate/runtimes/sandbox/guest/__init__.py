"""The part of the sandbox that runs on the other side: the zygote and the workers that execute model-written code.

Uses the standard library only and imports nothing of keepstate, because it runs in an interpreter of its own
(`python -P -s -S -B`, `LANG` and `PATH` alone) to which keepstate is not importable. The host starts it by `BOOT`,
which makes this folder importable under the name `guest`; inside, imports are relative. The host imports the same
modules as `keepstate.runtimes.sandbox.guest` where both sides must agree (frames, output, syscall tables).
"""

BOOT = """
import sys, types
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask
from builtins import BaseException
from sys import setprofile, settrace
package = types.ModuleType('guest')
package.__path__ = [sys.argv[1]]
sys.modules['guest'] = package
from guest.wire import SIGNALS
from guest.zygote import main
for action in main(*sys.argv[1:]):
    try:
        try:
            pthread_sigmask(SIG_SETMASK, ())  # a limit that came after the end of its block strikes here
            action.is_running = True
            action.value = action.function(*action.arguments)
        finally:
            try:
                setprofile(None)
            finally:
                try:
                    settrace(None)
                finally:
                    pthread_sigmask(SIG_BLOCK, SIGNALS)
    except BaseException as error:
        action.error = error
"""
"""Program text for `python -c`: arguments are those of `guest.zygote.main`.

Its loop is the outermost frame of a worker and runs model code itself, on behalf of a generator (`interpreter.py`): so
no other frame of ours is on the stack that model code can see and print. Only in there do signal handlers, tracers and
profilers of model code run, and what they raise is an error of the block.
"""
