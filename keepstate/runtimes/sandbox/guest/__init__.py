"""The part of the sandbox that runs on the other side: the zygote and the workers that execute model-written code.

Uses the standard library only and imports nothing of keepstate, because it runs in an interpreter of its own
(`python -P -s -S -B`, empty environment) to which keepstate is not importable. The host starts it by `BOOT`, which
makes this folder importable under the name `guest`; inside, imports are relative. The host imports the same modules
as `keepstate.runtimes.sandbox.guest` where both sides must agree (frames, output, syscall tables).
"""

BOOT = (
    "import sys, types; package = types.ModuleType('guest'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['guest'] = package; from guest.zygote import main; main(sys.argv[2:])"
)
"""Program text for `python -c`: arguments are this folder and what `guest.zygote.main` takes."""
