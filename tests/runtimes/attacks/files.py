"""Attacks through files: reading or changing the host's, filling disks, and tricks with links, /proc and descriptors.

`HOST["file"]` is a file of the host that everybody may read and write: nothing but the sandbox protects it.
"""

from __future__ import annotations

from attacks import Attack
from keepstate.vocabulary import Rung

_READ = """
tried({path!r}, lambda: open({path!r}, 'rb').read(64))
"""


def _read(*paths: str) -> str:
    return "".join(_READ.format(path=path) for path in paths)


_METADATA = """
path = HOST["file"]
tried("chmod", lambda: os.chmod(path, 0))
tried("chown", lambda: os.chown(path, 1, 1))
tried("utime", lambda: os.utime(path, (1, 1)))
tried("setxattr", lambda: os.setxattr(path, "user.x", b"1"))
tried("truncate", lambda: os.truncate(path, 0))
tried("unlink", lambda: os.unlink(path))
tried("rename", lambda: os.rename(path, path + "2"))
tried("replace", lambda: os.replace("/tmp/none", path))
tried("link", lambda: os.link(path, "/tmp/link"))
tried("mkdir", lambda: os.mkdir(path + ".d"))
tried("mknod", lambda: os.mknod(path + ".n"))
tried("symlink", lambda: os.symlink("/", path + ".l"))
"""

_BY_DESCRIPTOR = """
for flags in (os.O_PATH, os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
    try:
        fd = os.open(HOST["file"], flags)
    except OSError as error:
        print("refused", error.errno)
        continue
    print("opened" if flags == os.O_PATH else "BREACH opened", flags)
    for name, act in (("fchmod", lambda: os.fchmod(fd, 0)), ("chmod", lambda: os.chmod(f"/proc/self/fd/{fd}", 0)),
                      ("utime", lambda: os.utime(fd, (1, 1))), ("xattr", lambda: os.setxattr(fd, "user.x", b"1")),
                      ("read", lambda: os.read(fd, 9)), ("write", lambda: os.write(fd, b"x")),
                      ("reopen", lambda: open(f"/dev/fd/{fd}", "rb").read())):
        tried(name, act)
"""

_SYMLINK = """
for target in (HOST["file"], "/etc/passwd", "/proc/self/environ", "/"):
    try:
        os.symlink(target, "/tmp/trick")
    except OSError as error:
        print("refused symlink", error.errno)
        continue
    tried("read through a link", lambda: open("/tmp/trick" if target != "/" else "/tmp/trick/etc/passwd").read(9))
    tried("write through a link", lambda: open("/tmp/trick", "w").write("x"))
    os.unlink("/tmp/trick")
"""

_CLIMB = """
tried("dots", lambda: open("../" * 40 + "etc/passwd").read())
tried("dots from tmp", lambda: open("/tmp/../../../../../etc/passwd").read())
try:
    os.chdir("/tmp")
except OSError:
    pass
for _ in range(40):
    try:
        os.chdir("..")
    except OSError:
        pass
tried("after climbing", lambda: open("etc/passwd").read())
for fd in range(64):
    tried("dir_fd", lambda: os.open("etc/passwd", os.O_RDONLY, dir_fd=fd))
    tried("dir_fd up", lambda: os.open("../" * 20 + "etc/passwd", os.O_RDONLY, dir_fd=fd))
    tried("fchdir", lambda: os.fchdir(fd))
"""

_DESCRIPTORS = """
import stat
sockets = 0
for fd in range(1024):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    sockets += stat.S_ISSOCK(mode)
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode):
        print("BREACH inherited", fd, oct(mode))
    if stat.S_ISCHR(mode) and os.isatty(fd):
        print("BREACH terminal", fd)
print("BREACH" if sockets > 1 else "refused", sockets)
"""

_FILL = """
written = 0
try:
    for n in range(400):
        with open(f"{place}/fill{{n}}", "wb", buffering=0) as file:
            for _ in range(8):
                written += file.write(bytes(2**17))
except OSError as error:
    print("full", error.errno)
print("BREACH" if written > 20 * 2**20 else "refused", written)
"""

_INODES = """
made = 0
try:
    for n in range(5000):
        open(f"/tmp/i{n}", "w").close()
        made += 1
except OSError as error:
    print("full", error.errno)
print("BREACH" if made > 2000 else "refused", made)
"""

_LISTING = """
shown = ("/dev", "/tmp", "/usr/share/zoneinfo", os.path.dirname(os.__file__))
def strangers(folder):
    # what lies there beside the folders on the way to what is shown
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    found = [path for path in paths if not any(f"{s}/".startswith(f"{path}/") for s in shown)]
    return found or 1 / 0
for path in ("/", "/root", "/usr", "/usr/share", "/home", "/etc", "/proc", "/sys", "/dev/shm", "/var", "/opt"):
    tried(path, lambda: strangers(path))
for path in (os.path.dirname(HOST["file"]), HOST["project"]):
    tried(path, lambda: os.listdir(path))
"""

ATTACKS = (
    Attack(
        "read system files", _read("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/hosts", "/var/log/dpkg.log")
    ),
    Attack("read the host's file", "tried('read', lambda: open(HOST['file']).read())"),
    Attack(
        "read the project",
        """
tried('read', lambda: open(HOST['project'] + '/pyproject.toml').read())
tried('import', lambda: (sys.path.insert(0, HOST['project']), __import__('keepstate')))
""",
    ),
    Attack(
        "read the home",
        """
for name in ('.bashrc', '.profile', '.ssh', '.cache', '.bash_history'):
    tried(name, lambda: os.open('/root/' + name, os.O_RDONLY))
tried('expand', lambda: open(os.path.expanduser('~/.bashrc')).read())
""",
    ),
    Attack("list folders", _LISTING),
    Attack(
        "metadata of the host's files",
        """
tried('stat', lambda: os.stat(HOST['file']))
tried('stat', lambda: os.stat('/etc/passwd'))
tried('access', lambda: os.access('/etc', 0) or 1 / 0)
""",
        rungs=(Rung.NAMESPACES,),
    ),
    Attack(
        "own process in /proc",
        _read(
            "/proc/self/environ",
            "/proc/self/maps",
            "/proc/self/mem",
            "/proc/self/cmdline",
            "/proc/self/exe",
            "/proc/self/root/etc/passwd",
            "/proc/self/cwd/etc/passwd",
            "/proc/thread-self/environ",
            "/proc/self/fd/0/../../environ",
        ),
    ),
    Attack(
        "other processes in /proc",
        """
for pid in (1, HOST['pid'], HOST['zygote'], os.getppid()):
    for name in ('environ', 'maps', 'mem', 'cmdline', 'root/etc/passwd', 'fd'):
        tried(name, lambda: open(f'/proc/{pid}/{name}', 'rb').read(64))
""",
    ),
    Attack(
        "write to /proc and /sys",
        """
for path in ('/proc/self/oom_score_adj', '/proc/sysrq-trigger', '/proc/self/mem',
             '/proc/sys/kernel/core_pattern', '/sys/fs/cgroup/cgroup.procs', '/proc/self/uid_map'):
    tried(path, lambda: open(path, 'wb').write(b'0'))
""",
    ),
    Attack(
        "environment",
        """
print('BREACH' if set(os.environ) - {'LANG', 'PATH', 'LC_CTYPE'} else 'refused', sorted(os.environ))
print('BREACH' if any('KEEPSTATE' in value for value in os.environ.values()) else 'refused')
""",
    ),
    Attack(
        "environment in memory",
        """
import ctypes
library()
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')
n = 0
while environ and environ[n]:
    print('BREACH' if b'KEEPSTATE' in environ[n] else 'refused', environ[n])
    n += 1
print('refused')
""",
    ),
    Attack(
        "write the host's file",
        """
for mode in ('w', 'a', 'r+', 'x'):
    tried(mode, lambda: open(HOST['file'], mode).write('x'))
""",
    ),
    Attack("change the host's file by path", _METADATA),
    Attack("change the host's file by descriptor", _BY_DESCRIPTOR),
    Attack(
        "write to the standard library",
        """
import json
for path in (json.__file__, os.__file__, '/usr/lib/x', '/lib/x', '/bin/x', '/x', '/dev/x', '/dev/shm/x'):
    tried(path, lambda: open(path, 'a').write('#'))
""",
    ),
    Attack("symlinks", _SYMLINK),
    Attack("climb out of the root", _CLIMB),
    Attack(
        "where links lead",
        """
for path in ('/proc/self/exe', '/proc/self/cwd', '/proc/self/fd/0', '/proc/1/root', '/proc/self/ns/user'):
    tried('readlink', lambda: os.readlink(path))
for folder in ('/', '/lib', '/etc'):
    tried('readlinkat', lambda: os.readlink('exe', dir_fd=os.open('/proc/self', os.O_PATH)))
""",
    ),
    Attack("inherited descriptors", _DESCRIPTORS),
    Attack(
        "descriptors by name",
        _read("/dev/fd/3", "/dev/stdin", "/dev/fd/1", "/dev/tty", "/dev/mem", "/dev/kmsg").replace(
            "'/dev/stdin', lambda: open('/dev/stdin', 'rb').read(64)",
            "'/dev/stdin', lambda: open('/dev/stdin', 'rb').read(64) or 1 / 0",
        ),
    ),
    Attack("fill /tmp", _FILL.format(place="/tmp"), shows="full"),
    Attack("fill shared memory and the root", _FILL.format(place="/dev/shm") + _FILL.format(place=""), shows="full"),
    Attack("use up the inodes", _INODES, shows="full"),
    Attack(
        "a file of great size",
        """
import resource
tried('seek', lambda: os.ftruncate(os.open('/tmp/big', 66), 2**40))
""",
    ),
    Attack(
        "files by handle",
        """
denied('open_by_handle_at', -1, 0, 0)
denied('name_to_handle_at', -1, 0, 0, 0, 0)
""",
    ),
    Attack(
        "devices",
        """
tried('mknod', lambda: os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0)))
tried('mkfifo', lambda: os.mkfifo('/dev/fifo'))
""",
    ),
)
