from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memphis_worker.discovery import load_app
from memphis_worker.errors import AppNotFound, UsageError

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes modules into a folder of its own and takes them out of the interpreter again."""
    path, modules = list(sys.path), set(sys.modules)

    def write(**files: str) -> str:
        """`a__b` is a/b.py, `a__` the package a itself."""
        for name, text in files.items():
            file = tmp_path / ((name + "init" if name.endswith("__") else name).replace("__", "/") + ".py")
            file = file.with_name("__init__.py") if name.endswith("__") else file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return str(tmp_path)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


APP = "from memphis_worker import App\napp = App('{name}', discover={discover})\n"
HANDLER = "from {main} import app\n\n@app.handler(station='orders')\nasync def {name}(body: bytes) -> None: ...\n"


def test_an_app_is_found_and_its_folder_is_on_the_import_path(write: Write) -> None:
    folder = write(d_one=APP.format(name="shop", discover=[]))
    assert load_app("d_one:app", app_dir=folder).name == "shop"
    assert sys.path[0] == folder


def test_a_path_through_attributes_is_followed(write: Write) -> None:
    folder = write(d_nested=APP.format(name="shop", discover=[]) + "class holder:\n    inner = app\n")
    assert load_app("d_nested:holder.inner", app_dir=folder).name == "shop"


def test_a_factory_is_called_when_asked_for(write: Write) -> None:
    folder = write(d_factory="from memphis_worker import App\ndef make():\n    return App('made')\n")
    assert load_app("d_factory:make", app_dir=folder, factory=True).name == "made"
    with pytest.raises(AppNotFound, match="with --factory it would be called"):
        load_app("d_factory:make", app_dir=folder)


@pytest.mark.parametrize("target", ["shop", ":app", "shop:", "", ":"])
def test_what_is_no_path_is_refused(target: str) -> None:
    with pytest.raises(AppNotFound, match="write module:attribute"):
        load_app(target)


def test_what_is_not_there_is_named(write: Write) -> None:
    folder = write(d_two=APP.format(name="shop", discover=[]), d_pkg__="")
    with pytest.raises(AppNotFound, match=r"has no attribute 'ap'; it has app"):
        load_app("d_two:ap", app_dir=folder)
    with pytest.raises(AppNotFound, match="no module named 'd_missing'"):
        load_app("d_missing:app", app_dir=folder)
    with pytest.raises(AppNotFound, match=r"no module named 'd_two\.sub'"):
        load_app("d_two.sub:app", app_dir=folder)
    with pytest.raises(AppNotFound, match="is no folder"):
        load_app("d_two:app", app_dir=folder + "/nowhere")
    with pytest.raises(AppNotFound, match="is no factory"):
        load_app("d_two:app", app_dir=folder, factory=True)
    write(d_number="app = 5\n")
    with pytest.raises(AppNotFound, match=r"is no memphis_worker\.App but a int"):
        load_app("d_number:app", app_dir=folder)


def test_an_import_error_of_the_users_own_module_comes_through(write: Write) -> None:
    folder = write(d_broken="import not_installed_anywhere\n", d_raises="raise ValueError('mine')\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        load_app("d_broken:app", app_dir=folder)
    with pytest.raises(ValueError, match="mine"):
        load_app("d_raises:app", app_dir=folder)


def test_modules_and_whole_packages_are_discovered(write: Write) -> None:
    folder = write(
        d_main=APP.format(name="shop", discover=["d_more", "d_pack"]),
        d_more=HANDLER.format(main="d_main", name="one"),
        d_pack__="",
        d_pack__two=HANDLER.format(main="d_main", name="two"),
        d_pack__deep__=HANDLER.format(main="d_main", name="three"),
        d_pack__deep__four=HANDLER.format(main="d_main", name="four"),
    )
    assert (Path(folder) / "d_pack" / "two.py").exists()
    (Path(folder) / "d_pack" / "__main__.py").write_text("raise SystemExit('never run')\n")
    app = load_app("d_main:app", app_dir=folder)
    assert sorted(each.group for each in app.registry) == ["four", "one", "three", "two"]


def test_what_cannot_be_discovered_is_named(write: Write) -> None:
    folder = write(d_lost=APP.format(name="shop", discover=["d_nowhere"]))
    with pytest.raises(AppNotFound, match=r"App 'shop', discover='d_nowhere': no module named"):
        load_app("d_lost:app", app_dir=folder)
    folder = write(d_bad=APP.format(name="shop", discover=["d_bad_pack"]), d_bad_pack__="")
    write(d_bad_pack__sub__="import not_installed_anywhere\n")
    with pytest.raises((UsageError, ModuleNotFoundError), match=r"not_installed_anywhere|cannot be imported"):
        load_app("d_bad:app", app_dir=folder)


def test_discover_is_a_list() -> None:
    from memphis_worker import App

    with pytest.raises(UsageError, match=r"give a list of modules, \['shop'\]"):
        App(discover="shop")
