"""Which version is served: promote, rollback, and what an export leaves as it is."""

import json
from pathlib import Path

import pytest

from app.artifact import Artifact, read_card
from app.errors import ArtifactError
from app.served_version import POINTER_NAME, ServedVersion, read_pointer
from tests.app.test_models import edit_card, install
from tests.training.test_comparison import compared, pairs
from training.comparison import COMPARISON_NAME
from training.config import ConfigError
from training.export import staged
from training.promote import CORRECTIONS, promote, rollback


@pytest.fixture
def versions(artifact: Artifact, tmp_path: Path) -> list[Path]:
    """Two of them, without a pointer."""
    return [install(artifact, tmp_path, version) for version in (1, 2)]


def test_there_and_back(versions: list[Path]) -> None:
    """Without a pointer the newest is what is served before; promoting what is served changes nothing."""
    first, second = versions
    model = first.parent

    assert promote(first)
    assert read_pointer(model) == ServedVersion(version=1, previous=(2,))
    assert not promote(first)
    assert promote(second)
    assert read_pointer(model) == ServedVersion(version=2, previous=(2, 1))
    assert rollback(model) == read_pointer(model) == ServedVersion(version=1, previous=(2,))
    assert rollback(model) == ServedVersion(version=2)
    with pytest.raises(ConfigError, match=r"nothing to go back to\. promote takes any version; there is: .*/2, .*/1\."):
        rollback(model)
    assert [path.name for path in sorted(model.iterdir())] == ["1", "2", POINTER_NAME]


def test_what_a_service_would_refuse_is_not_promoted(versions: list[Path]) -> None:
    first, second = versions
    promote(first)
    (second / "model.onnx").write_bytes(b"damaged")

    with pytest.raises(ArtifactError, match=r"SHA-256 of model\.onnx"):
        promote(second)
    with pytest.raises(ArtifactError, match=r"SHA-256 of model\.onnx"):
        rollback(first.parent)
    assert read_pointer(first.parent) == ServedVersion(version=1, previous=(2,))


def compare(versions: list[Path], *, only_old: int, only_new: int) -> None:
    """Write beside the second what comparing it with the first has given."""
    digests = [read_card(folder).sha256["model.pt"] for folder in versions]
    comparison = compared(pairs(only_old, only_new)).model_copy(
        update={"old_sha256": digests[0], "new_sha256": digests[1]}
    )
    (versions[1] / COMPARISON_NAME).write_text(comparison.model_dump_json())


def test_a_worse_version_is_promoted_only_anyway(versions: list[Path]) -> None:
    promote(versions[0])
    compare(versions, only_old=9, only_new=1)

    with pytest.raises(ConfigError, match="is worse than"):
        promote(versions[1])
    assert promote(versions[1], anyway=True)


def test_one_that_learned_from_corrections_has_to_be_compared(versions: list[Path]) -> None:
    """With what is served: a comparison with something else does not count."""
    promote(versions[0])
    edit_card(versions[1], lambda card: card["data"]["sha256"].update({CORRECTIONS: "0" * 64}))
    with pytest.raises(ConfigError, match="was not compared"):
        promote(versions[1])
    (versions[1] / COMPARISON_NAME).write_text(compared(pairs(1, 9)).model_dump_json())
    with pytest.raises(ConfigError, match="was not compared"):
        promote(versions[1])
    compare(versions, only_old=1, only_new=1)

    assert promote(versions[1])


def test_an_export_beside_others_changes_nothing_that_is_served(artifact: Artifact, tmp_path: Path) -> None:
    """It pins what was served until then, the newest good version; the first one of a model needs no pin."""
    models, source = tmp_path / "models", tmp_path / "source"
    for version in (1, 2, 3):
        install(artifact, source, version)
        with staged(models, "fashion-mnist") as folder:
            for path in (source / "fashion-mnist" / str(version)).iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
        pinned = read_pointer(models / "fashion-mnist")
        assert pinned == (None if version == 1 else ServedVersion(version=1))


def test_a_pin_is_the_newest_good_version(artifact: Artifact, tmp_path: Path) -> None:
    install(artifact, tmp_path, 1)
    (install(artifact, tmp_path, 2) / "model.pt").write_bytes(b"damaged")
    third = install(artifact, tmp_path / "source", 3)
    with staged(tmp_path, "fashion-mnist") as folder:
        for path in third.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    assert json.loads((tmp_path / "fashion-mnist" / POINTER_NAME).read_text()) == {"version": 1, "previous": []}
