"""Where home is, what ships with keepstate, and what is said where nothing can be written."""

from pathlib import Path

import pytest

from keepstate import places
from keepstate.errors import UserError
from keepstate.serve import plan_serving
from keepstate.setup import basemodel, installing, qwen3
from keepstate.train.preflight import find_model

UNWRITABLE = "/proc/keepstate"
"""Nobody can make a folder there, root neither."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As an installed wheel sees it, with a user's folder of its own."""
    for name in ("KEEPSTATE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(places, "IN_CHECKOUT", False)
    return tmp_path


def test_home_is_the_checkout_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KEEPSTATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert places.home() == Path(__file__).parents[1]
    monkeypatch.setenv("KEEPSTATE_HOME", "here")
    assert places.home() == tmp_path / "here"


def test_home_of_an_installed_wheel_is_the_user_s_data_folder(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.home() == installed / ".local" / "share" / "keepstate"
    monkeypatch.setenv("XDG_DATA_HOME", str(installed / "data"))
    assert places.home() == installed / "data" / "keepstate"


def test_a_home_of_an_unknown_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", "~nobody-of-that-name/x")
    with pytest.raises(UserError, match="~nobody-of-that-name"):
        places.home()


def test_what_ships_is_found_from_anywhere_and_what_lies_here_goes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = "train/assets/task_configs/easy_100.json"
    assert places.find(config) == places.SHIPPED / config
    (tmp_path / config).parent.mkdir(parents=True)
    (tmp_path / config).touch()
    assert places.find(config) == Path(config)
    assert places.find("nowhere.json") == Path("nowhere.json")


@pytest.mark.parametrize("kind", ["file", "below a file", "unwritable"])
def test_a_home_that_cannot_be_written_is_told_by_all_that_would_write_it(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folders = {"file": str(tmp_path / "file"), "below a file": str(tmp_path / "file" / "x"), "unwritable": UNWRITABLE}
    monkeypatch.setenv("KEEPSTATE_HOME", folders[kind])
    makers = {
        "keepstate setup train": lambda: installing.ensure("train"),
        "keepstate setup model": basemodel.ensure_base_model,
        "keepstate setup tokenizer": qwen3.ensure_qwen3_tokenizer,
    }
    for command, make in makers.items():
        with pytest.raises(UserError, match="cannot be written") as caught:
            make()
        assert command in caught.value.hint
        assert "export KEEPSTATE_HOME=" in caught.value.hint


def test_logs_go_where_the_user_may_write(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.log_file("x.log") == places.home() / ".stamps" / "x.log"
    (installed / "file").touch()
    monkeypatch.setenv("KEEPSTATE_HOME", str(installed / "file"))
    assert places.log_file("x.log") == installed / ".local" / "state" / "keepstate" / "x.log"
    monkeypatch.setenv("HOME", str(installed / "file"))
    monkeypatch.setattr(places.tempfile, "tempdir", str(installed))
    log = places.log_file("x.log")
    assert log.parent.parent == installed
    log.touch()


def test_caches_go_where_the_user_may_write(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.caches(installed / "caches") == {}
    (installed / "file").touch()
    monkeypatch.setenv("HOME", str(installed / "file"))
    assert places.caches(installed / "caches")["HOME"] == str(installed / "caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(installed / "elsewhere"))
    assert places.caches(installed / "caches") == {}


def test_the_model_that_a_config_names_is_the_one_that_the_hint_makes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    name = f"models/{basemodel.NAME}"
    for missing in (name, str(basemodel.folder())):
        with pytest.raises(UserError, match="no such model folder") as caught:
            find_model(missing)
        assert caught.value.hint == "make it: keepstate setup model"
    with pytest.raises(UserError, match="no such model folder") as caught:
        find_model("models/another")
    assert "setup" not in caught.value.hint
    basemodel.folder().mkdir(parents=True)
    (basemodel.folder() / "config.json").write_text("{}")
    for refuse in (lambda: find_model(name), lambda: plan_serving(base_model=name, template="chatml")):
        with pytest.raises(UserError, match="is incomplete") as caught:
            refuse()
        assert caught.value.hint == "make it again: keepstate setup model"
    monkeypatch.setattr(basemodel, "is_ready", lambda: True)
    assert find_model(name) == basemodel.folder()
