"""Numbers of the system calls that matter to the sandbox, written down independently of keepstate's own tables.

Taken from the kernel's headers (x86-64: `asm/unistd_64.h`; aarch64: `asm-generic/unistd.h`, Linux 6.1). Each entry is
`name: (x86-64, aarch64)`, None where an architecture has no such call.
"""

from __future__ import annotations

Numbers = dict[str, tuple[int | None, int | None]]

AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_AARCH64 = 0xC00000B7
AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_ARM = 0x40000028
X32_BIT = 0x40000000

NEEDED: Numbers = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "exit_group": (231, 94),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
}
"""Without these no interpreter runs: allowed at every rung."""

PROCESSES: Numbers = {
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
}
"""New processes and programs (threads are off as well)."""

OTHERS: Numbers = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "get_robust_list": (274, 100),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
"""Reaching into other processes."""

NETWORK: Numbers = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}
"""Everything but a pair of connected sockets (asyncio needs that)."""

KERNEL: Numbers = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "seccomp": (317, 277),
    "personality": (135, 92),
}
"""Interfaces with a history of privilege escalation, or that change the machine."""

NAMESPACES: Numbers = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
}
"""Leaving or changing the worker's view of the machine."""

PRIVILEGES: Numbers = {
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
}
"""Changing who the worker is."""

SHARED: Numbers = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "semop": (65, 193),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
"""Memory and queues that outlive or bypass the limits of one worker."""

HANDLES: Numbers = {
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "mknod": (133, None),
    "mknodat": (259, 33),
}
"""Files by other ways than a path, and devices."""

SCHEDULING: Numbers = {
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "setrlimit": (160, 164),
}
"""Favouring oneself over others."""

METADATA: Numbers = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "truncate": (76, 45),
}
"""Landlock does not mediate these, so where the host's files are in view they must be denied (holes 5 and 6)."""

OPENING: Numbers = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
}
"""Denied where no file may be opened at all."""

OTHERS_DOINGS: Numbers = {
    "sysinfo": (99, 179),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "flock": (73, 32),
}
"""Load, room and locks: what one episode could see of another or of the host."""

ARGUMENTS: Numbers = {
    "clock_getres": (229, 114),
    "fcntl": (72, 25),
    "futex": (202, 98),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "prlimit64": (302, 261),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "mmap": (9, 222),
}
"""Calls whose arguments decide."""

GROUPS = (
    NEEDED,
    PROCESSES,
    OTHERS,
    OTHERS_DOINGS,
    NETWORK,
    KERNEL,
    NAMESPACES,
    PRIVILEGES,
    SHARED,
    HANDLES,
    SCHEDULING,
    METADATA,
    OPENING,
)


def number(name: str, machine: str) -> int | None:
    """The number of `name` on `x86_64` or `aarch64`."""
    for group in (*GROUPS, ARGUMENTS):
        if name in group:
            return group[name][machine == "aarch64"]
    raise KeyError(name)
