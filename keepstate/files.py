"""Reading and writing files so that a crash, a full disk or a Ctrl-C loses nothing.

Every file that keepstate writes appears whole or not at all. Does not know any of keepstate's formats.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keepstate.errors import UserError

TEMPORARY = ".keepstate.tmp"
"""How a file ends that is being written. It is locked meanwhile, so one that is not was left by a killed run."""

STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
"""What lies in these folders, such as /dev/stdout and /dev/null, is no file that could be replaced."""
PROBE = 2**14
"""Bytes. What fails on a full disk leaves less than a buffer of 8 KiB, or a line, free."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def write_atomic(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`: a reader sees the old content or the new, never a part.

    Text is UTF-8, a lone surrogate (of a file's name that is no UTF-8) is written `\\udcff`, as JSON has it; parent
    folders are made.

    Args:
        path: Where.
        data: What.
        durable: Wait until the disk has it. Not for a copy that is made again where a power cut took it.

    Raises:
        UserError: The disk is full, or the place cannot be written.
    """
    with atomic_file(path, durable=durable) as file:
        file.write(data_bytes(data))


def data_bytes(data: str | bytes) -> bytes:
    """What is written of `data`."""
    return data.encode(errors="backslashreplace") if isinstance(data, str) else data


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write piece by piece; it appears as `path`, whole, when the block ends without an error.

    A file that is replaced keeps its mode; a new one gets what the user's umask allows. A pipe or device is written to.

    Raises:
        UserError: The disk is full, or the place cannot be written.
    """
    temporary: Path | None = None
    try:
        mode = _mode(path)
        if mode and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or path.parent in STREAMS):
            with path.open("wb") as file:
                yield file
            return
        temporary, descriptor = _claimed(path)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(descriptor)
            if mode:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            os.replace(temporary, path)
            temporary = None
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """Kind and rights of a file; 0 where there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _claimed(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, locked while its descriptor is open; what a killed run left under its name is gone.

    Its mode is what the user's umask allows.
    """
    temporary = path.parent / f".{path.name}{TEMPORARY}"
    while True:
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except FileExistsError:
            if not clear_orphan(temporary):  # somebody writes the same file now
                temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}"
            continue
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # taken for an orphan before it was locked


def clear_orphan(orphan: Path) -> bool:
    """Remove a temporary file or folder of ours that nobody holds locked. False where somebody may."""
    folder = orphan.is_dir()
    kind = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR
    try:
        descriptor = os.open(orphan, kind | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return False
        if os.path.samestat(os.fstat(descriptor), orphan.stat(follow_symlinks=False)):
            if folder:
                shutil.rmtree(orphan, ignore_errors=True)
            else:
                orphan.unlink()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lock(descriptor: int) -> bool | None:
    """Whether we hold the lock now, which ends with the process at the latest; None on disks that know no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder inside `parent`, so on the same disk, that vanishes; what killed runs left there is removed first.

    Args:
        parent: It is made where it is missing.
        prefix: Of its name; ours alone, as folders of that name that nobody uses are removed.

    Raises:
        UserError: It cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for orphan in parent.glob(f"{prefix}????????"):
            if orphan.is_dir():
                clear_orphan(orphan)
        while True:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock(descriptor) is not False and folder.exists():
                break
            os.close(descriptor)
    except OSError as error:
        raise write_error(parent, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable.

    Raises:
        UserError: The disk refuses.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(folder, error) from error


def check_room(path: Path) -> None:
    """Refuse a disk without room for another page of `path`: that is why a program failed there which may not say so,
    as its log, too, lies on a full disk.

    Raises:
        UserError: The disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(os.urandom(PROBE))  # which no disk compresses
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> UserError:
    """Explain why `path` could not be written."""
    if error.errno in FULL:
        free = "free some space, then repeat the command: what is finished is kept"
        return UserError(f"no disk space left for {path}", free)
    right = ", or give yourself the right" if error.errno in FORBIDDEN else ""
    blocking = next((each for each in path.parents if os.path.lexists(each) and not os.path.isdir(each)), None)
    reason = f"{blocking} is no folder" if blocking else error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}", f"choose another output folder{right}")


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """The value of a JSON text. NaN, Infinity and numbers beyond a double, which Python would take, are refused.

    Args:
        text: The text.
        hooks: Further ones of `json.loads`.

    Raises:
        ValueError: It is no JSON.
    """
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, **hooks)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def parse_yaml(data: bytes) -> Any:
    """The value of a YAML file.

    Raises:
        ValueError: It is none, in one line. PyYAML lets pass what goes wrong inside it: `!!int ""`, a month 13, a whole
            number of 5,000 digits, 1,000 brackets inside each other.
    """
    import yaml  # `--help` does not wait for it

    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error


def refused(error: OSError) -> UserError | None:
    """Explain what the operating system refused, if a user can mend it (space, rights, a file in a folder's place)."""
    place = error.filename2 or error.filename
    if error.errno in FULL:
        return write_error(Path(str(place or tempfile.gettempdir())), error)
    if place is None or error.errno not in (*FORBIDDEN, *MISPLACED):
        return None
    right = ", or give yourself the right" if error.errno in FORBIDDEN else ""
    return UserError(f"{place}: {error.strerror}", f"name another place{right}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented strict JSON, atomically. Keys keep their order; text stays readable Unicode."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented strict JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces. Equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Where two texts or lists first differ: the length of what they begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class ListHash:
    """`content_hash` of a list that only grows, at the cost of its new items."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._items = 0

    def of(self, items: Sequence[Any]) -> str:
        """`content_hash(items)`; the items of the last call must still be its beginning."""
        for item in items[self._items :]:
            text = ("," if self._items else "") + canonical_json(item)
            self._hash.update(text.encode("utf-8", "surrogatepass"))
            self._items += 1
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing_folder(path: Path, what: str, command: str) -> Path:
    """`path`, if it is a folder.

    Args:
        path: What the user named.
        what: What the folder should hold, for the message.
        command: The command that makes it.

    Raises:
        UserError: It does not exist or is a file.
    """
    if not path.exists():
        raise UserError(f"{what}: no such folder: {path}", f"make it with: {command}")
    if not path.is_dir():
        raise UserError(
            f"{what}: {path} is a file, a folder is needed", f"name the folder that holds it: {path.parent}"
        )
    return path
