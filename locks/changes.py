"""Tells what a lock file pins otherwise than another: python locks/changes.py BEFORE AFTER (locks/compile.sh does)."""

import re
import sys
from pathlib import Path

_PIN = re.compile(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, list[str]]:
    """The packages of a lock file's text with their versions: several, where markers choose one."""
    found: dict[str, list[str]] = {}
    for name, version in _PIN.findall(lock):
        found.setdefault(name, []).append(version)
    return found


def changes(before: str, after: str) -> list[str]:
    """A line for every package that came (+), went (-) or has another version."""
    old, new = pins(before), pins(after)
    lines = []
    for name in sorted(old.keys() | new.keys()):
        was, now = (" / ".join(those.get(name, [])) for those in (old, new))
        if was and now and was != now:
            lines.append(f"  {name} {was} -> {now}")
        elif was != now:
            lines.append(f"{'+' if now else '-'} {name} {now or was}")
    return lines


if __name__ == "__main__":
    then, now = (Path(name).read_text() for name in sys.argv[1:])
    lines = changes(then, now)
    print(f"{sys.argv[2]}: {len(pins(now))} packages, {len(lines) or 'none'} changed")
    print("".join(f"    {line}\n" for line in lines), end="")
