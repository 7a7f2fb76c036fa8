"""What is told of lock files: which versions changed, which advisories are known, and that no release is left out."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from keepstate.places import SHIPPED
from keepstate.setup.environments import RELEASES, EnvironmentSpec

LOCKS = SHIPPED / "locks"
BEFORE = "a==1.0 \\\n    --hash=sha256:00\nb==2.0 ; python_version < '3.12'\nb==3.0 ; python_version >= '3.12'\nc==1\n"
AFTER = "# d==9\na==1.1 \\\n    --hash=sha256:11\nb==2.0\nd==4.0+cpu\n"


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(LOCKS))
    module = importlib.import_module("audit")
    monkeypatch.setattr(module, "LOCKS", tmp_path)
    monkeypatch.setattr(module, "ANSWER", tmp_path / "advisories.md")
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    (tmp_path / "before.txt").write_text(BEFORE)
    (tmp_path / "after.txt").write_text(AFTER)
    return module


def test_changes_name_what_came_went_and_moved(tmp_path: Path) -> None:
    (tmp_path / "before").write_text(BEFORE)
    (tmp_path / "after").write_text(AFTER)
    command = [sys.executable, LOCKS / "changes.py", tmp_path / "before", tmp_path / "after"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].endswith("after: 3 packages, 4 changed")
    assert said[1:] == ["      a 1.0 -> 1.1", "      b 2.0 / 3.0 -> 2.0", "    - c 1", "    + d 4.0+cpu"]


def answers(part: dict[str, str], _: str) -> list[dict[str, Any]]:
    bad = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.5"]}
    return [
        {"name": name, "version": version, "vulns": [bad] if (name, version) == ("b", "2.0") else []}
        for name, version in part.items()
    ]


def test_an_advisory_is_kept_with_what_mends_it_and_where_it_stands(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(audit, "ask", lambda part, service: asked.append(part) or answers(part, service))
    assert audit.main() == 1
    assert sorted(pin for part in asked for pin in part.items()) == [
        *(("a", "1.0"), ("a", "1.1"), ("b", "2.0"), ("b", "3.0"), ("c", "1"), ("d", "4.0"))
    ]
    kept = audit.ANSWER.read_text()
    assert "6 of 6 pinned versions were answered, 1 advisories" in kept
    assert "| b 2.0 | PYSEC-1 CVE-1 | 2.5 | after.txt, before.txt |" in kept


def test_what_is_not_answered_is_not_known(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = "not found"
    monkeypatch.setattr(
        audit, "ask", lambda part, _: [{"name": n, "version": v, "skip_reason": skipped} for n, v in part.items()]
    )
    assert audit.main() == 2
    assert "0 of 6 pinned versions were answered" in audit.ANSWER.read_text()
    assert "Not known: 6" in audit.ANSWER.read_text()


def test_a_service_that_cannot_be_asked_leaves_the_last_answer(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.ANSWER.write_text("the last")

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "Traceback\nConnectionError: no such host\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main() == 2
    assert "pypi could not be asked: ConnectionError: no such host" in capsys.readouterr().err
    assert audit.ANSWER.read_text() == "the last"


@pytest.mark.parametrize("key", RELEASES, ids=" ".join)
def test_every_release_is_what_its_lock_pins(key: Any) -> None:
    name, device, engines = key
    spec = EnvironmentSpec(name, device, Path(), engines)
    assert f"\n{spec.release.package}=={spec.release.version} " in spec.lock.read_text()
    assert [path for path in spec.torch_locks if not path.is_file()] == []


def test_torch_is_one_release_in_every_file_that_an_environment_takes_it_from() -> None:
    cpu, pypi = ((LOCKS / f"torch-{name}.txt").read_text() for name in ("cpu-current", "pypi"))
    (version,) = re.findall(r"^torch==(\S+)\+cpu ", cpu, re.MULTILINE)
    assert f"\ntorch=={version} " in pypi
    brought = set(re.findall(r"^([a-z0-9-]+)==", pypi, re.MULTILINE))
    for name in ("train", "serve"):
        own = set(re.findall(r"^([a-z0-9-]+)==", (LOCKS / f"{name}-cpu-current.txt").read_text(), re.MULTILINE))
        assert not brought & own


def test_the_kept_answer_says_how_much_of_the_locks_it_is_of() -> None:
    kept = (LOCKS / "advisories.md").read_text()
    assert re.search(r"^\d+ of \d+ pinned versions were answered, \d+ advisories", kept, re.MULTILINE)
