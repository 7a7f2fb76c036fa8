"""Attacks through processes, threads and signals."""

from __future__ import annotations

from attacks import Attack

_FORKS = """
made = 0
for _ in range(100):
    try:
        if {call} == 0:
            os._exit(0)
        made += 1
    except OSError:
        pass
print("BREACH" if made else "refused", made)
"""

ATTACKS = (
    Attack("fork bomb", _FORKS.format(call="os.fork()")),
    Attack("forkpty", _FORKS.format(call="os.forkpty()[0]")),
    Attack("raw clone", "denied('clone', 17, also=(11,))"),
    Attack("raw clone of a thread", "denied('clone', 0x10f00, also=(11,))"),
    Attack("raw clone3", "denied('clone3', 0, 0, also=(11,))"),
    Attack(
        "raw fork and vfork",
        """
denied('fork', also=(11,))
denied('vfork', also=(11,))
print('refused')
""",
    ),
    Attack(
        "thread bomb",
        """
import threading, time
for _ in range(50):
    tried('thread', lambda: threading.Thread(target=time.sleep, args=(9,), daemon=True).start())
""",
    ),
    Attack(
        "low-level thread",
        """
import _thread
tried('thread', lambda: _thread.start_new_thread(print, ()))
""",
    ),
    Attack(
        "thread pool",
        "tried('pool', lambda: __import__('concurrent.futures').futures.ThreadPoolExecutor(1).submit(int).result(1))",
        seconds=3,
    ),
    Attack(
        "timer thread that acts between steps",
        """
import threading
tried('timer', lambda: threading.Timer(0.05, lambda: echo('late')).start())
""",
    ),
    Attack("subprocess", "tried('run', lambda: __import__('subprocess').run(['/bin/true']))"),
    Attack(
        "os.system",
        """
status = os.system('true')
print('refused' if status else 'BREACH', status)
""",
    ),
    Attack("posix_spawn", "tried('spawn', lambda: os.posix_spawn('/bin/true', ['true'], {}))"),
    Attack("execv", "tried('exec', lambda: os.execv('/bin/sh', ['sh', '-c', 'echo BREACH']))"),
    Attack("exec of oneself", "tried('exec', lambda: os.execv(sys.executable or '/x', ['python', '-c', '1']))"),
    Attack(
        "fexecve of memory",
        """
tried('memfd', lambda: os.memfd_create('x'))
denied('execveat', -1, 0, 0, 0, 0x1000)
""",
    ),
    Attack(
        "multiprocessing",
        "tried('process', lambda: __import__('multiprocessing').get_context('fork').Process(target=print).start())",
        seconds=8,
    ),
    Attack("popen", "tried('popen', lambda: os.popen('id').read() or 1 / 0)"),
    Attack(
        "kill the host by number",
        """
for sig in (9, 15, 19, 2):
    tried('kill', lambda: os.kill(HOST['pid'], sig))
""",
    ),
    Attack("kill the zygote", "tried('kill', lambda: os.kill(HOST['zygote'], 9))"),
    Attack(
        "kill the parent",
        """
parent = os.getppid()
tried('kill', lambda: os.kill(parent, 9) if parent else 1 / 0)
print('refused')
""",
    ),
    Attack(
        "kill everything",
        """
for target in (-1, 1):
    try:
        os.kill(target, 9)
    except OSError:
        pass
print('still')
""",
        shows="still|interpreter",
        ends=(None, "InterpreterExit"),
        lost=None,
    ),
    Attack(
        "kill the group",
        """
for sig in (15, 9):
    try:
        os.kill(0, sig)
    except OSError:
        pass
print('still')
""",
        shows="still|interpreter",
        ends=(None, "InterpreterExit"),
        lost=None,
    ),
    Attack("kill the host's group", "tried('killpg', lambda: os.killpg(HOST['group'], 9))"),
    Attack(
        "tgkill and sigqueue",
        """
denied('tgkill', HOST['pid'], HOST['pid'], 9, also=(3,))
denied('tkill', HOST['pid'], 9, also=(3,))
denied('rt_sigqueueinfo', HOST['pid'], 9, 0)
denied('rt_tgsigqueueinfo', HOST['pid'], HOST['pid'], 9, 0)
""",
    ),
    Attack(
        "a descriptor of the host",
        """
denied('pidfd_open', HOST['pid'], 0)
denied('pidfd_getfd', 0, 0, 0)
denied('pidfd_send_signal', 0, 9, 0, 0)
""",
    ),
    Attack(
        "signals through a descriptor's owner",
        r"""
import fcntl
r, w = os.pipe()
for fd in (r, 3):
    tried('F_SETOWN', lambda: fcntl.fcntl(fd, fcntl.F_SETOWN, HOST['pid']))
    tried('F_SETSIG', lambda: fcntl.fcntl(fd, 10, 9))
    tried('F_SETOWN_EX', lambda: fcntl.fcntl(fd, 15, b'\x01\0\0\0' + HOST['pid'].to_bytes(4, 'little')))
""",
        ends=(None, "InterpreterExit"),
        shows="refused|interpreter",
        lost=None,
    ),
    Attack(
        "ioctl FIOASYNC and FIOSETOWN",
        """
import struct
r, w = os.pipe()
pid = struct.pack('i', HOST['pid'])
fcntl = __import__('fcntl')
tried('FIOSETOWN', lambda: fcntl.ioctl(r, 0x8901, pid))
tried('SIOCSPGRP', lambda: fcntl.ioctl(r, 0x8902, pid))
tried('FIOASYNC', lambda: fcntl.ioctl(r, 0x5452, pid))
""",
    ),
    Attack(
        "ptrace",
        """
denied('ptrace', 16, HOST['pid'], 0, 0)
denied('ptrace', 0, 0, 0, 0)
""",
    ),
    Attack(
        "read the memory of others",
        """
denied('process_vm_readv', HOST['pid'], 0, 0, 0, 0, 0)
denied('process_vm_writev', HOST['pid'], 0, 0, 0, 0, 0)
denied('process_madvise', 0, 0, 0, 0, 0)
denied('kcmp', HOST['pid'], BORN, 0, 0, 0)
""",
    ),
    Attack(
        "limits of the host",
        """
import ctypes
limit = (ctypes.c_uint64 * 2)(1, 1)
denied('prlimit64', HOST['pid'], 7, ctypes.byref(limit), 0, also=(3,))
denied('prlimit64', HOST['zygote'], 7, ctypes.byref(limit), 0, also=(3,))
""",
    ),
    Attack(
        "priority and processors of the host",
        """
denied('setpriority', 0, HOST['pid'], 19, also=(3,))
denied('sched_setscheduler', HOST['pid'], 0, 0)
denied('ioprio_set', 1, HOST['pid'], 0, also=(3,))
tried('affinity', lambda: os.sched_setaffinity(HOST['pid'], {0}))
""",
    ),
)
