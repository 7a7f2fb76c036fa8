"""An installed wheel, as its users meet it: every Python found, no checkout, a home that is only read, any folder.

Installs the locked dependencies, which needs the package index. Trains and serves nothing: `tests/e2e/test_demo.py`.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from serve.serving_helpers import write_environment
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import keepstate
from keepstate.files import file_hash, write_json
from keepstate.places import SHIPPED, shipped
from keepstate.setup import basemodel, environments
from keepstate.setup.environments import EnvironmentSpec
from keepstate.setup.interpreters import python_version
from keepstate.vocabulary import Engines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
VERSIONS = ("3.11", "3.12", "3.13")
NOBODYS = "3.12"
"""Where the tests are root's, an ordinary user without a home folder has this one."""
TWO = pytest.mark.parametrize("user", [NOBODYS, "3.13"], indirect=True)
"""Enough where the version of Python makes no difference."""
AS_NOBODY = Path(__file__).parents[1] / "runtimes" / "as_nobody.py"
CONFIG = "train/assets/benchmark_configs/bench-easy-base.yaml"
OURS = ("Traceback", "Exception Group", "ExceptionGroup")


def interpreter(version: str) -> str | None:
    """A Python of that version, found as pyenv, uv and systems lay them."""
    own = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in (sys.executable, *map(str, own), shutil.which(f"python{version}"), f"/usr/bin/python{version}"):
        if candidate and python_version(candidate) == version:
            return candidate
    return None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def wheel(root: Path) -> Path:
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", root, SHIPPED], check=True)
    (built,) = root.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(root: Path, wheel: Path) -> dict[str, Path]:
    """A virtual environment of each Python found, with the wheel and its locked dependencies."""
    pip = f"{sys.executable} -m pip -q --disable-pip-version-check --python"
    options = "--no-compile --no-deps --no-warn-script-location"
    locked = f"--require-hashes -r {SHIPPED}/locks/core.txt"
    made, running = {}, []
    for version in VERSIONS:
        if python := interpreter(version):
            made[version] = folder = root / f"venv-{version}"
            install = f"{pip} {folder}/bin/python install {options}"
            steps = f"{python} -m venv --without-pip {folder} && {install} {locked} && {install} {wheel}"
            running.append(subprocess.Popen(["sh", "-c", steps]))
    assert [process.wait() for process in running] == [0] * len(running)
    return made


@pytest.fixture(scope="module")
def shared(root: Path) -> Path:
    """A home where everything is made, in the eyes of those who look: environments that run nothing, a tokenizer."""
    home = root / "home"
    for name in environments.NAMES:
        write_environment(EnvironmentSpec(name, "cpu", home), "#!/bin/sh\necho only a stand-in\nexit 3\n")
    model = home / "models" / basemodel.NAME
    model.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["user assistant system"], trainer)
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text("{}")
    sizes = {path.name: path.stat().st_size for path in model.iterdir()}
    write_json(model / basemodel.MARKER, {"source": file_hash(shipped("locks/base-model.txt")), "files": sizes})
    return home


@dataclass(frozen=True)
class User:
    """Somebody with an installed keepstate, in a folder that he may write."""

    venv: Path
    folder: Path
    nobody: bool
    """An ordinary user without a home folder, where the tests are root's."""

    def run(self, *words: str | Path, home: Path | str, cwd: Path | None = None) -> tuple[int, str]:
        """Exit code and all words of a command, which is never to end in a traceback.

        Args:
            words: Of the command.
            home: `KEEPSTATE_HOME`; unset where it is empty.
            cwd: Where to run it.
        """
        command = [self.venv / "bin" / "keepstate", *words]
        env = {"HOME": str(self.folder / "own"), "KEEPSTATE_DEVICE": "cpu", "LC_ALL": "C.UTF-8"}
        env |= {"PATH": os.environ["PATH"]} | ({"KEEPSTATE_HOME": str(home)} if home else {})
        if self.nobody:
            env |= {"OPEN": str(self.venv.parent), "HOME": "/nonexistent"}
            inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', cwd or self.folder]
            command = [self.venv / "bin" / "python", AS_NOBODY, *inside, *command]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=env, cwd=cwd or self.folder, check=False
        )
        said = done.stdout + done.stderr
        assert not any(words in said for words in OURS), said
        return done.returncode, said


@pytest.fixture(params=VERSIONS)
def user(request: pytest.FixtureRequest, installed: dict[str, Path], root: Path) -> User:
    version = str(request.param)
    if version not in installed:
        pytest.skip(f"there is no Python {version} here: keepstate was NOT tested with it")
    folder = root / "users" / version / request.node.name.partition("[")[0]
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return User(installed[version], folder, nobody=version == NOBODYS and os.geteuid() == 0)


def test_the_wheel_holds_all_that_lies_beside_the_code(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = Path(keepstate.__file__).parent
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path.relative_to(package.parent).as_posix() for path in others} <= inside
    assert "keepstate/py.typed" in inside
    for folder in ("locks", "train/configs", "train/assets"):
        there = (path for path in (SHIPPED / folder).rglob("*") if path.is_file())
        files = [path for path in there if path.suffix not in (".py", ".pyc")]
        assert files
        assert {f"keepstate/shipped/{path.relative_to(SHIPPED).as_posix()}" for path in files} <= inside


def test_the_source_distribution_builds_the_same_wheel(root: Path, wheel: Path) -> None:
    code = "import sys; from hatchling.build import {0}; {0}(sys.argv[1])"
    packed, built = root / "packed", root / "built"
    for folder in (packed, built):
        folder.mkdir()
    subprocess.run([sys.executable, "-c", code.format("build_sdist"), packed], cwd=SHIPPED, check=True)
    (archive,) = packed.glob("*.tar.gz")
    shutil.unpack_archive(archive, packed, filter="data")
    (source,) = packed.glob("*/pyproject.toml")
    subprocess.run([sys.executable, "-c", code.format("build_wheel"), built], cwd=source.parent, check=True)
    (again,) = built.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_an_editable_install_copies_nothing(root: Path) -> None:
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    folder = root / "editable"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code, folder], cwd=SHIPPED, check=True)
    (built,) = folder.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.startswith("keepstate/")]


STEPS = (
    ("--help", 0, "Commands:"),
    ("doctor", 0, "the laptop loop can run: keepstate demo"),
    ("setup", 0, "/home/models/smollm2-135m-instruct"),
    ("tasks generate --count 3 --out tasks", 0, "tasks"),
    ("traces collect --tasks tasks", 0, "persistent: 3 recorded"),
    ("traces check data/traces --paired", 0, "9 traces checked, 0 broken"),
    ("dataset build --val-fraction 0", 0, "react: 3 rows of 3 traces"),
    ("dataset preview data/datasets/react --html page.html", 0, "page.html"),
    ("train react --laptop --dry-run", 0, "home/models/smollm2-135m-instruct"),
    ("train forget --dry-run", 2, "--template qwen3_nothink"),
    ("serve --laptop --dry-run", 0, "/keepstate/serve/plugin"),
    ("init project --laptop --makefile", 0, "project/configs/react.yaml"),
    ("tasks check project/my_tasks.py --count 1", 0, "the plan plays 3 tasks to their end"),
    ("tasks generate --config project/eval.json --out project/eval", 0, "project/eval"),
    ("ls --json", 0, '"path": "data/traces/forget"'),
    ("clean --delete", 0, "nothing to remove"),
    ("completion zsh", 0, "zsh_source"),
    ("bench --help", 0, "matrix"),
    (f"bench run {CONFIG} --base-url http://127.0.0.1:9/v1", 2, "no server answers at http://127.0.0.1:9/v1"),
    ("report runs/bench", 2, "no such folder: runs/bench"),
)
"""What a user types, its exit code, and a part of what it says."""


def test_every_command_works_away_from_a_checkout_with_a_home_that_is_only_read(user: User, shared: Path) -> None:
    def contents() -> set[tuple[str, float]]:
        return {(str(path), path.stat().st_mtime) for path in (shared, *shared.rglob("*"))}

    before = contents()
    for line, code, words in STEPS:
        got, said = user.run(*line.split(), home=shared)
        assert (got, words in said) == (code, True), f"{line}: {got}\n{said}"
    assert contents() == before


@pytest.mark.parametrize("user", [NOBODYS], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: the home is this user's own")
def test_a_server_s_log_goes_where_its_user_may_write(user: User, shared: Path) -> None:
    code, said = user.run("serve", "--laptop", "--port", "0", home=shared)
    assert (code, "from the end of" in said, "only a stand-in" in said) == (2, True, True), said
    (log,) = set(re.findall(r"/\S+/vllm-\d+\.log", said))
    assert not Path(log).is_relative_to(shared)
    shutil.rmtree(Path(log).parent)


@TWO
def test_a_missing_home_names_commands_that_exist(user: User) -> None:
    code, said = user.run("doctor", "--quick", home=user.folder / "missing")
    commands = re.findall(r"-> keepstate (.+)", said)
    assert (code, commands[:3]) == (1, ["setup train", "setup serve", "setup model"]), said
    for command in commands:
        assert user.run(*command.split(), "--help", home="")[0] == 0
    assert not (user.folder / "missing").exists()


@TWO
def test_what_cannot_be_written_is_told(user: User, shared: Path) -> None:
    user.run("tasks", "generate", "--count", "2", "--out", "tasks", home=shared)
    (user.folder / "file").touch()
    closed = Path("/usr") if user.nobody else user.folder / "file"
    for line in ("tasks generate --count 2 --out", "traces collect --tasks tasks --out", "demo --out"):
        code, said = user.run(*line.split(), closed / "x", home=shared)
        assert (code, f"cannot write {closed}/x" in said, "hint:  choose another" in said) == (2, True, True), said
    commands = ("setup train", "dataset build --runtime react --traces .", "demo")
    for home, lines in ((user.folder / "file", commands), ("/proc/x", commands[:1])):
        for line in lines:
            code, said = user.run(*line.split(), home=home)
            assert (code, "export KEEPSTATE_HOME=" in said) == (2, True), f"{line}: {said}"
        assert user.run("doctor", "--quick", home=home)[0] == 1


@pytest.mark.parametrize("user", ["3.11"], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: a small disk cannot be mounted")
def test_a_full_disk_is_told_and_what_is_finished_stays(user: User, shared: Path) -> None:
    user.run("tasks", "generate", "--count", "12", "--out", "tasks", home=shared)
    script = """
        mkdir small && mount -t tmpfs -o size=48k none small && cd small || exit 77
        "$0" traces collect --tasks ../tasks 2>&1; echo "exit $?"; ls data/traces/*
    """
    command = ["unshare", "-m", "sh", "-c", script, user.venv / "bin" / "keepstate"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=user.folder, check=False)
    if done.returncode == 77:
        pytest.skip("this root may not mount: a full disk was NOT tested")
    assert "no disk space left for data/traces" in done.stdout
    assert "exit 2" in done.stdout
    assert ".trace.json" in done.stdout
    assert not any(words in done.stdout + done.stderr for words in OURS)


def test_the_environments_get_the_python_that_their_locks_are_for(user: User) -> None:
    code = "from keepstate.setup.interpreters import *; from keepstate.setup.environments import *; from sys import *\n"
    code += "print(python_version(find_python(spec('train', Engines(argv[1])))))"
    for engines in Engines:
        command = [user.venv / "bin" / "python", "-c", code, engines]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() in environments.RELEASES["train", environments.device(), engines].pythons
