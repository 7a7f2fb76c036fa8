"""For all tests: Ctrl-C means something, also where they run in the background of a shell, which ignores it there."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a program that they start would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
