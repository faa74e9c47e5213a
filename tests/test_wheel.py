"""The wheel, installed into an environment with nothing else in it: what it brings, and that it serves.

Builds the wheel and installs the packages it asks for, without PyTorch.
"""

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app import __version__
from app.inference.store import ModelStore
from app.settings import Settings
from tests.process import REPOSITORY, serving

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "app", "training", "models")


@dataclass(frozen=True, slots=True)
class Installation:
    """An environment whose only contents are the wheel and what it depends on."""

    folder: Path

    def run(self, name: str, *arguments: str) -> str:
        """What a program of the environment prints, called from the environment's own folder."""
        command = [self.folder / "bin" / name, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module", autouse=True)
def no_other_path() -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves `build/` in the sources, and would take into a wheel what is in it."""
    sources, wheels = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, sources / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(sources))
    (wheel,) = wheels.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, symlinks=True)
    pip("--python", str(folder / "bin" / "python"), "install", "--no-compile", "--only-binary", ":all:", str(wheel))
    return Installation(folder)


@pytest.fixture(scope="module")
def client(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client, None, None]:
    """Of `wardrobe serve`, in an empty folder and with default settings."""
    folder = tmp_path_factory.mktemp("anywhere")
    command = [str(installation.folder / "bin" / "wardrobe"), "serve"]
    with serving(folder.with_name("wheel-log"), command=command, cwd=folder) as (_, client):
        yield client


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        capture_output=True,
        check=True,
    )


@pytest.mark.parametrize(
    ("picture", "model", "label", "decision"),
    [
        ("ankle-boot.png", "fashion-mnist", "Ankle boot", "sorted"),
        ("sunset.png", "wardrobe", "t-shirt", "not_a_garment"),
    ],
)
def test_it_predicts_with_both_models(
    client: httpx.Client, picture: str, model: str, label: str, decision: str
) -> None:
    content = (REPOSITORY / "tests" / "data" / picture).read_bytes()

    (prediction,) = client.post("/predict", content=content).json()["predictions"]

    found = (prediction["model"]["name"], prediction["label"], prediction["decision"])
    assert found == (model, label, decision)


def test_it_brings_of_each_model_the_version_that_a_clone_serves(client: httpx.Client, models_dir: Path) -> None:
    """`tool.setuptools.package-data` names them: a new version has to be written there."""
    in_clone = ModelStore(Settings(models_dir=models_dir, engine="onnxruntime"))
    in_clone.load()

    installed = client.get("/models").json()["models"]

    assert {it["name"]: it["versions"] for it in installed} == {
        name: [in_clone.served_version(name)] for name in in_clone.names
    }


def test_it_does_without_torch(client: httpx.Client, installation: Installation) -> None:
    assert not list(installation.folder.glob("lib/*/site-packages/torch*"))
    assert client.get("/models/wardrobe").json()["serving"]["engine"] == "onnxruntime"


def test_the_page_is_in_it(client: httpx.Client) -> None:
    names = re.findall(r'(?:src|href)="(web/[^"#]+)', client.get("/").text)

    assert names
    assert {client.get(f"/{name}").status_code for name in names} == {200}


def test_its_command_says_the_one_version(installation: Installation) -> None:
    assert installation.run("wardrobe", "--version") == f"wardrobe {__version__}\n"


def test_the_change_log_begins_with_the_version() -> None:
    released = re.findall(r"^## \[(\d[^]]*)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert released[0] == __version__


def test_type_checkers_see_its_types(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from app.client import WardrobeClient\n"
        'with WardrobeClient("http://127.0.0.1:8000") as client:\n'
        '    for answer in client.predict(["a.png"]):\n'
        "        print(answer.label.no_such_method())\n"
    )
    command = ["-m", "mypy", "--strict", "--python-executable", str(installation.folder / "bin" / "python"), "user.py"]

    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert re.findall(r"user\.py:(\d+): error: .*\[(.*)\]", done.stdout) == [("4", "union-attr"), ("4", "union-attr")]
