"""Asks which known advisories concern what the lock files pin, and keeps the answer in locks/advisories.md.

    python locks/audit.py      # needs pip-audit; make audit installs it

Every version that a lock names is asked about once, at the Python Package Index or, with `--service osv`, at OSV. What
the service does not answer is kept as not known, never as free of advisories. Ends with 0 where all was answered and
nothing found, 1 with an advisory, 2 where something is not known.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from changes import pins

LOCKS = Path(__file__).resolve().parent
ANSWER = LOCKS / "advisories.md"
ROUND = 50


def locked() -> dict[tuple[str, str], list[str]]:
    """Every pinned package with its version, and the lock files that name it."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(LOCKS.glob("*.txt")):
        for name, versions in pins(path.read_text()).items():
            for version in versions:
                found.setdefault((name, version.partition("+")[0]), []).append(path.name)
    return found


def rounds(pinned: list[tuple[str, str]]) -> list[dict[str, str]]:
    """`pinned` in parts that name each package once, as pip-audit takes them, small enough to tell how far it is."""
    parts: list[dict[str, str]] = []
    for name, version in pinned:
        free = next((part for part in parts if name not in part and len(part) < ROUND), None)
        if free is None:
            parts.append(free := {})
        free[name] = version
    return parts


def ask(part: dict[str, str], service: str) -> list[dict]:
    """What pip-audit answers about a part: for each package its advisories, or why it was skipped.

    Raises:
        ConnectionError: It could not be asked.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{name}=={version}\n" for name, version in part.items()))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--vulnerability-service", service, "--format", "json", "-r", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ConnectionError(f"{service} could not be asked: {said}") from None


def table(answers: list[dict], places: dict[tuple[str, str], list[str]]) -> list[str]:
    """A row for every advisory."""
    rows = []
    for answer in answers:
        for advisory in answer.get("vulns", []):
            names = ", ".join(places[answer["name"], answer["version"]])
            mended = ", ".join(advisory["fix_versions"]) or "-"
            known = " ".join([advisory["id"], *advisory.get("aliases", [])])
            rows.append(f"| {answer['name']} {answer['version']} | {known} | {mended} | {names} |")
    return rows


def main() -> int:
    """Ask, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="Who is asked.")
    service = parser.parse_args().service
    places = locked()
    answers: list[dict] = []
    try:
        for part in rounds(list(places)):
            answers += ask(part, service)
            print(f"{len(answers)} of {len(places)} asked about", file=sys.stderr, flush=True)
    except ConnectionError as error:
        print(f"error: {error}\nhint:  nothing is known then; {ANSWER} stays as it is", file=sys.stderr)
        return 2
    rows = table(answers, places)
    unknown = [answer for answer in answers if "skip_reason" in answer]
    told = f"{len(answers) - len(unknown)} of {len(answers)} pinned versions were answered, {len(rows)} advisories"
    lines = [f"# Known advisories of locked packages ({datetime.now(UTC):%d %B %Y}, {service})", "", f"{told}."]
    if rows:
        lines += ["", "| package | advisory | mended in | lock files |", "|---|---|---|---|", *rows]
    if unknown:
        lines += ["", f"Not known: {len(unknown)}. The first: {unknown[0]['name']}, {unknown[0]['skip_reason']}"]
    ANSWER.write_text("\n".join(lines) + "\n")
    print(f"{told} ({ANSWER})")
    return 1 if rows else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
