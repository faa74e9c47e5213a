"""Which version of a model the service takes: promoted, taken back, or pinned before a new one is exported."""

import os
from pathlib import Path

from app.artifact import Card, read_card
from app.engines import load_artifact
from app.errors import ArtifactError
from app.served_version import POINTER_NAME, ServedVersion, read_pointer
from training.comparison import COMPARISON_NAME, read_comparison
from training.config import ConfigError

CORRECTIONS = "corrections"  # the data's digest in a card that has learned from some


def promote(folder: Path, *, anyway: bool = False) -> bool:
    """Let the service take models/<name>/<version> from now on; False if it does already.

    A version that was found worse than the served one, or learned from corrections and was not compared with it, is
    promoted only `anyway`.

    Raises:
        ArtifactError: its digests, card or golden predictions do not match, so that the service would refuse it.
        ConfigError: it is worse or was not compared, or served.json cannot be written.
    """
    card = load_artifact(folder).card
    version = card.version
    pointer = read_pointer(folder.parent)
    if pointer and pointer.version == version:
        return False
    served = served_version(folder.parent)
    if not anyway and served not in (None, version):
        _require_not_worse(folder, card, folder.parent / str(served))
    previous = (*(pointer.previous if pointer else ()), *([served] if served not in (None, version) else ()))
    _write(folder.parent, ServedVersion(version=version, previous=previous))
    return True


def rollback(model_folder: Path) -> ServedVersion:
    """Let the service take the version of models/<name> that it took before the present one.

    Raises:
        ArtifactError: that one would be refused.
        ConfigError: there is none, or served.json cannot be written.
    """
    pointer = read_pointer(model_folder)
    if pointer is None or not pointer.previous:
        there = ", ".join(str(folder) for folder in _versions(model_folder)) or "none"
        raise ConfigError(
            f"{model_folder} was never promoted: there is nothing to go back to. "
            f"promote takes any version; there is: {there}."
        )
    *previous, version = pointer.previous
    load_artifact(model_folder / str(version))
    pointer = ServedVersion(version=version, previous=tuple(previous))
    _write(model_folder, pointer)
    return pointer


def pin(model_folder: Path) -> None:
    """Before a version is added: where nothing says which one is served, say that it is the present one.

    Else the service would take the new one because it is the newest. The first version of a model needs no pin.
    """
    if not (model_folder / POINTER_NAME).exists() and (version := newest_good_version(model_folder)) is not None:
        _write(model_folder, ServedVersion(version=version))


def served_version(model_folder: Path) -> int | None:
    """What a service takes if it is good."""
    pointer = read_pointer(model_folder)
    return pointer.version if pointer else newest_good_version(model_folder)


def newest_good_version(model_folder: Path) -> int | None:
    """What a service without served.json takes."""
    for folder in _versions(model_folder):
        try:
            return load_artifact(folder).card.version
        except ArtifactError:
            continue
    return None


def _require_not_worse(folder: Path, card: Card, served: Path) -> None:
    comparison = read_comparison(folder)
    try:
        digests = read_card(served).sha256["model.pt"], card.sha256["model.pt"]
    except ArtifactError:  # nothing to be worse than
        return
    if comparison is None or (comparison.old_sha256, comparison.new_sha256) != digests:
        if CORRECTIONS in card.data.sha256:
            raise ConfigError(
                f"{folder} learned from corrections and was not compared with {served}, which is served: first "
                f"photos compare {served} {folder} and the data. --anyway promotes it all the same."
            )
    elif comparison.verdict == "worse":
        raise ConfigError(
            f"{folder} is worse than {served}, which is served; see {folder / COMPARISON_NAME}. --anyway promotes it "
            "all the same."
        )


def _versions(model_folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in model_folder.glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: -int(path.name))


def _write(model_folder: Path, pointer: ServedVersion) -> None:
    """Whole or not at all: a service may be reading it."""
    temporary = model_folder / f".{POINTER_NAME}.tmp"
    try:
        with temporary.open("w") as file:
            file.write(pointer.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, model_folder / POINTER_NAME)
    except OSError as error:
        raise ConfigError(f"{model_folder / POINTER_NAME} cannot be written ({error.strerror}).") from error
