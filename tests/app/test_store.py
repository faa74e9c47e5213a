"""Which version of a model is served, and what a look at the folder finds while it serves."""

import gc
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.artifact import Artifact
from app.images import DecodedImage
from app.inference.store import ModelStore
from app.served_version import POINTER_NAME
from app.settings import Settings
from tests.app.test_models import edit_card, install

THUMBNAIL = DecodedImage(np.zeros((28, 28, 3), np.uint8), "PNG", 28, 28, ())


def point(models_dir: Path, version: int, *previous: int) -> None:
    text = json.dumps({"version": version, "previous": previous})
    (models_dir / "fashion-mnist" / POINTER_NAME).write_text(text)


def damage(folder: Path) -> bytes:
    """Cut model.onnx short; what it was."""
    path = folder / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    return content


@pytest.fixture
def loaded(settings: Settings, tmp_path: Path) -> Callable[..., ModelStore]:
    def load(**changes: object) -> ModelStore:
        own = {"models_dir": tmp_path, "default_model": "fashion-mnist", "engine": "onnxruntime", "max_batch_size": 1}
        store = ModelStore(settings.model_copy(update=own | changes))
        store.load()
        return store

    return load


def look_twice(store: ModelStore) -> int | None:
    """What is served when everything stood still for one look."""
    store.refresh()
    store.refresh()
    return store.served_version("fashion-mnist")


def test_the_pointer_names_the_version(artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path) -> None:
    for version in (1, 2):
        install(artifact, tmp_path, version)
    point(tmp_path, 1)

    store = loaded()

    assert store.served_version("fashion-mnist") == 1
    assert store.versions("fashion-mnist") == [1, 2]


@pytest.mark.parametrize(("previous", "served"), [((1, 2), 2), ((), 2), ((1,), 1)])
def test_a_start_with_a_bad_pointed_version_goes_back(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path, previous: tuple[int, ...], served: int
) -> None:
    """To those served before, then to older ones; the newer one was never promoted."""
    for version in (1, 2, 3, 4):
        install(artifact, tmp_path, version)
    damage(tmp_path / "fashion-mnist" / "3")
    point(tmp_path, 3, *previous)

    store = loaded()

    assert store.served_version("fashion-mnist") == served
    assert [refusal.folder for refusal in store.refusals] == ["fashion-mnist/3"]


@pytest.mark.parametrize("content", ["", "2", '{"version": 0}', '{"version": 2, "colour": "blue"}', '{"version": 7}'])
def test_a_wrong_pointer_is_refused_and_changes_nothing(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path, content: str
) -> None:
    for version in (1, 2):
        install(artifact, tmp_path, version)
    point(tmp_path, 1)
    store = loaded()
    (tmp_path / "fashion-mnist" / POINTER_NAME).write_text(content)

    assert look_twice(store) == 1

    (refusal,) = store.refusals
    assert refusal.folder == "fashion-mnist/served.json"
    assert refusal.reason.startswith("fashion-mnist/served.json is refused: ")


def test_without_a_pointer_a_newer_version_is_taken_when_it_stands_still(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    """It may be being copied: half of it is neither served nor refused."""
    install(artifact, tmp_path, 1)
    store = loaded()
    folder = install(artifact, tmp_path, 2)
    content = damage(folder)

    store.refresh()
    (folder / "model.onnx").write_bytes(content)
    store.refresh()
    assert (store.served_version("fashion-mnist"), store.refusals) == (1, ())
    store.refresh()
    assert store.served_version("fashion-mnist") == 2


def test_a_bad_version_is_refused_once_and_taken_when_it_is_mended(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(artifact, tmp_path, 1)
    store = loaded()
    content = damage(install(artifact, tmp_path, 2))
    point(tmp_path, 2, 1)

    for _ in range(4):
        assert look_twice(store) == 1
    assert [refusal.folder for refusal in store.refusals] == ["fashion-mnist/2"]
    assert len([record for record in caplog.records if "fashion-mnist/2 is refused" in record.message]) == 1

    (tmp_path / "fashion-mnist" / "2" / "model.onnx").write_bytes(content)
    assert look_twice(store) == 2
    assert store.refusals == ()


def test_who_promotes_again_has_a_refused_version_looked_into_again(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    """Also where nothing about its files says that they changed."""
    install(artifact, tmp_path, 1)
    store = loaded()
    path = install(artifact, tmp_path, 2) / "model.onnx"
    point(tmp_path, 2, 1)
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look_twice(store) == 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look_twice(store) == 1

    point(tmp_path, 1)
    assert look_twice(store) == 1
    point(tmp_path, 2, 1)

    assert look_twice(store) == 2


def test_a_version_that_does_not_run_takes_nobodys_place(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    """Its files are those of its card, which promises another answer."""
    install(artifact, tmp_path, 1)
    store = loaded()
    edit_card(install(artifact, tmp_path, 2), lambda card: card["golden"][0]["probabilities"].reverse())

    assert look_twice(store) == 1
    assert "golden prediction 0 differs" in store.refusals[0].reason


def test_a_folder_that_goes_bad_is_named_and_its_version_goes_on(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    """An older one does not take its place; one whose folder was taken away makes room for it."""
    for version in (1, 2):
        install(artifact, tmp_path, version)
    store = loaded()
    damage(tmp_path / "fashion-mnist" / "2")

    assert look_twice(store) == 2
    assert [refusal.folder for refusal in store.refusals] == ["fashion-mnist/2"]
    assert store.versions("fashion-mnist") == [1, 2]

    shutil.rmtree(tmp_path / "fashion-mnist" / "2")
    assert look_twice(store) == 1
    assert store.refusals == ()

    shutil.rmtree(tmp_path / "fashion-mnist")
    assert look_twice(store) == 1


def test_a_card_that_was_completed_is_told(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    """As `evaluate` does with the test figures."""
    folder = install(artifact, tmp_path, 1)
    store = loaded()
    edit_card(folder, lambda card: card.update(description="Measured."))

    look_twice(store)

    assert store.card("fashion-mnist")[1].description == store.served("fashion-mnist")[0].description == "Measured."


def test_a_service_without_its_model_gets_ready_when_it_comes(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path
) -> None:
    store = loaded()
    assert not store.ready
    install(artifact, tmp_path, 1)

    look_twice(store)

    assert store.ready


@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript"])
def test_a_request_keeps_its_version_and_then_the_memory_is_free(
    artifact: Artifact, loaded: Callable[..., ModelStore], tmp_path: Path, engine: str
) -> None:
    for version in (1, 2):
        install(artifact, tmp_path, version)
    point(tmp_path, 1)
    store = loaded(engine=engine)
    choose, choose_by_name = store.chooser("auto"), store.chooser("fashion-mnist")
    network = weakref.ref(choose(THUMBNAIL).artifact.engine)
    point(tmp_path, 2, 1)

    assert look_twice(store) == 2
    chosen = [it(THUMBNAIL).artifact.card.version for it in (choose, choose_by_name, store.chooser("auto"))]
    del choose, choose_by_name
    gc.collect()

    assert chosen == [1, 1, 2]
    assert network() is None
