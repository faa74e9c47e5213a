"""The models under the model folder: which there are, which are served, and why the others are not."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.artifact import CARD_NAME, ONNX_NAME, TORCHSCRIPT_NAME, Card, last_line, read_card, verify_digests
from app.errors import ArtifactError, ModelNotFoundError, NotReadyError
from app.images import DecodedImage
from app.inference.routing import choose_model
from app.inference.scheduler import ModelChooser, ServedModel
from app.inference.tuning import Tuning, load_fastest
from app.served_version import POINTER_NAME, ServedVersion, read_pointer
from app.settings import Settings

logger = logging.getLogger(__name__)

AUTO = "auto"
RETRY_LOADING_SECONDS = 2

Stamp = tuple[tuple[int, int, int] | None, ...]  # of each file inode, size and time of change; None: it is not there


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model folder that is not served."""

    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Serving:
    """The version of a model that answers, the folder's stamp when it was loaded, and how it is run."""

    model: ServedModel
    stamp: Stamp
    tuning: Tuning


@dataclass(frozen=True, slots=True)
class _State:
    """All that is told and served at one moment. Replaced whole and never changed: a request keeps the one it saw."""

    serving: Mapping[str, _Serving]
    cards: Mapping[str, Mapping[int, tuple[Path, Card]]]
    refusals: tuple[Refusal, ...]


class ModelStore:
    """Every model of the folder: one good version of each is loaded and warm, the rest are cards.

    It is the version that served.json names, or without that file the newest. `load` and `refresh` are of one thread,
    one after the other; everything else may be called from any.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded = False
        self._state = _State({}, {}, ())
        # The rest is of the thread that loads.
        self._seen: dict[Path, Stamp] = {}  # version folders and pointers as of the last look
        self._taken: dict[Path, Stamp] = {}  # those that were looked into
        self._checked: dict[Path, Card | Refusal] = {}

    def load(self) -> None:
        """Load and warm up; afterwards the store is `ready` if the default model can be served."""
        logger.info("loading the models under %s", self._settings.models_dir)
        self._seen = dict(_look(self._settings.models_dir))
        self._take(self._seen)
        self._loaded = True
        if not self.ready:
            logger.error("not ready: %s", self._why_not_ready())

    def refresh(self) -> None:
        """Take up what changed under the model folder since the last call; costs some stats where nothing did.

        A version is looked into when its files stood still from one call to the next: it may be being copied. It is
        loaded, checked and warm before it takes the place of another one, which goes on if the new one is refused.
        """
        before, self._seen = self._seen, dict(_look(self._settings.models_dir))
        settled = {
            path: stamp if is_settled else self._taken[path]
            for path, stamp in self._seen.items()
            if (is_settled := path.name == POINTER_NAME or before.get(path) == stamp) or path in self._taken
        }
        if settled != self._taken:
            was_ready = self.ready
            self._take(settled)
            if self.ready and not was_ready:
                logger.info("ready")

    @property
    def ready(self) -> bool:
        """Whether the default model is served."""
        return self._loaded and self._settings.default_model in self._state.serving

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self._state.refusals

    @property
    def names(self) -> list[str]:
        """Every model with at least one good version.

        Raises:
            NotReadyError: still loading.
        """
        if not self._loaded:
            raise NotReadyError(self._why_not_ready(), RETRY_LOADING_SECONDS)
        return sorted(self._state.cards)

    @property
    def thumbnail_model(self) -> str | None:
        """The model that `auto` takes for small grey pictures, if it is served."""
        name = self._settings.thumbnail_model
        return name if name in self._state.serving else None

    def chooser(self, name: str, version: int | None = None) -> ModelChooser:
        """How to choose the model for a picture: always the one called `name`, or for `auto` by the picture.

        Whatever is promoted meanwhile, all pictures that it is asked for get the versions that are served now.

        Raises:
            NotReadyError: still loading, or the default model cannot be served.
            ModelNotFoundError: no model of that name is served, or another version of it than the one wanted.
        """
        self.require_ready()
        serving = self._state.serving
        if name != AUTO or version is not None:
            if name not in serving:
                raise ModelNotFoundError(name, version, sorted(serving))
            model = serving[name].model
            if version not in (None, model.artifact.card.version):
                raise ModelNotFoundError(name, version, [f"{name}/{model.artifact.card.version}"])
            return lambda image: model
        default, thumbnail = self._settings.default_model, self._settings.thumbnail_model

        def choose(image: DecodedImage) -> ServedModel:
            there = thumbnail if thumbnail in serving else None
            return serving[choose_model(image, default_model=default, thumbnail_model=there)].model

        return choose

    def require_ready(self) -> None:
        """Do nothing if the default model is served.

        Raises:
            NotReadyError: it is not, and why.
        """
        if not self.ready:
            raise NotReadyError(self._why_not_ready(), RETRY_LOADING_SECONDS)

    def served_version(self, name: str) -> int | None:
        serving = self._state.serving.get(name)
        return serving.model.artifact.card.version if serving else None

    def tuning(self, name: str) -> Tuning | None:
        """How the served version is run; None if there is none."""
        serving = self._state.serving.get(name)
        return serving.tuning if serving else None

    def served(self, name: str) -> tuple[Card, Tuning]:
        """The card of the served version, and how it is run.

        Raises:
            NotReadyError: still loading.
            ModelNotFoundError: no version of such a model is served.
        """
        serving = self._state.serving.get(name)
        if not self._loaded or serving is None:
            raise self._not_found(name, None)
        return serving.model.artifact.card, serving.tuning

    def versions(self, name: str) -> list[int]:
        return sorted(self._state.cards.get(name, {}))

    def card(self, name: str, version: int | None = None) -> tuple[Path, Card]:
        """Folder and card of a version, by default the served one.

        Raises:
            NotReadyError: still loading.
            ModelNotFoundError: no such model or version.
        """
        state = self._state
        if version is None and name in state.serving:
            version = state.serving[name].model.artifact.card.version
        found = state.cards.get(name, {}).get(version or 0)
        if not self._loaded or found is None:
            raise self._not_found(name, version)
        return found

    def _not_found(self, name: str, version: int | None) -> ModelNotFoundError:
        return ModelNotFoundError(name, version, [f"{n}/{v}" for n in self.names for v in self.versions(n)])

    def _take(self, found: dict[Path, Stamp]) -> None:
        """Look into what is new or changed, and let each model's wanted version be served, as far as it is good."""
        folders = [path for path in found if path.name != POINTER_NAME]
        self._checked = {
            folder: self._checked[folder] if self._is_known(folder, found) else _check(folder) for folder in folders
        }
        self._taken = found
        by_model: dict[Path, list[Path]] = {}
        for folder in sorted(folders, key=lambda folder: -int(folder.name)):
            by_model.setdefault(folder.parent, []).append(folder)
        serving = dict(self._state.serving)
        refusals = []
        for model_folder, versions in sorted(by_model.items()):
            name, pointer = model_folder.name, None
            try:
                pointer = read_pointer(model_folder)
                wanted = model_folder / str(pointer.version) if pointer else versions[0]
                if wanted in self._seen and wanted not in versions:  # just arrived: it is taken next time
                    continue
                if wanted not in versions:
                    raise ArtifactError(model_folder / POINTER_NAME, f"there is no version {wanted.name}.")
            except ArtifactError as error:
                refusals.append(_refusal(model_folder / POINTER_NAME, error))
                if name in serving:
                    continue
            served = serving[name].model.artifact.card.version if name in serving else None
            for folder in _in_order(versions, pointer, served=served):
                if (new := self._good(folder, before=serving.get(name))) is not None:
                    serving[name] = new
                    break
        self._state = _State(serving, self._cards(serving), (*refusals, *self._refused()))

    def _is_known(self, folder: Path, found: dict[Path, Stamp]) -> bool:
        """Whether nothing changed since it was looked into.

        Whoever promotes something wants what was refused looked into again.
        """
        pointer = folder.parent / POINTER_NAME
        is_wanted = found.get(pointer) != self._taken.get(pointer)
        return self._taken.get(folder) == found[folder] and not (
            is_wanted and isinstance(self._checked[folder], Refusal)
        )

    def _good(self, folder: Path, *, before: _Serving | None) -> _Serving | None:
        """This version loaded, or `before` if it is that; None if it must not be served: what is wrong is noted."""
        card = self._checked[folder]
        if isinstance(card, Refusal):
            return None
        if before and before.model.artifact.folder == folder and before.stamp == self._taken[folder]:
            return before
        wanted = None if self._settings.engine == "auto" else self._settings.engine
        try:
            artifact, tuning = load_fastest(folder, card, wanted=wanted, max_batch_size=self._settings.max_batch_size)
        except Exception as error:  # whatever is wrong with one folder, the others are served
            self._checked[folder] = _refusal(folder, error)
            return None
        instead = f" in place of {before.model.artifact.card.version}" if before else ""
        logger.info("serving %s version %d%s, SHA-256 %s", card.name, card.version, instead, artifact.digest)
        return _Serving(ServedModel(artifact, tuning.batch_size), self._taken[folder], tuning)

    def _cards(self, serving: Mapping[str, _Serving]) -> dict[str, dict[int, tuple[Path, Card]]]:
        """Of every good version, and of those that are served whatever became of their folders since."""
        cards: dict[str, dict[int, tuple[Path, Card]]] = {}
        for folder, checked in self._checked.items():
            if isinstance(checked, Card):
                cards.setdefault(folder.parent.name, {})[checked.version] = (folder, checked)
        for name, its in serving.items():
            artifact = its.model.artifact
            cards.setdefault(name, {})[artifact.card.version] = (artifact.folder, artifact.card)
        return cards

    def _refused(self) -> list[Refusal]:
        return [checked for checked in self._checked.values() if isinstance(checked, Refusal)]

    def _why_not_ready(self) -> str:
        if not self._loaded:
            return "The models are being loaded."
        refused = " ".join(refusal.reason for refusal in self.refusals)
        folder = self._settings.models_dir.name
        return f"There is no usable model {self._settings.default_model!r} under {folder}/. {refused}".strip()


def _check(folder: Path) -> Card | Refusal:
    try:
        card = read_card(folder)
        verify_digests(folder, card)
    except Exception as error:
        return _refusal(folder, error)
    return card


def _refusal(path: Path, error: Exception) -> Refusal:
    """Said in the log once: what does not change is not looked into again."""
    if not isinstance(error, ArtifactError):
        logger.error("%s fails to run", path, exc_info=error)
        error = ArtifactError(path, f"it fails to run ({last_line(error)}).")
    logger.error("%s", error)
    return Refusal(f"{path.parent.name}/{path.name}", str(error))


def _in_order(versions: list[Path], pointer: ServedVersion | None, *, served: int | None) -> list[Path]:
    """Which of a model's folders, given newest first, to try: the first good one is served, else what is stays.

    Without a pointer the newest good one. But while a version answers and its folder is there, no older one takes its
    place: the disk may have gone bad. With a pointer the one it names; at the start, if that is bad, those served
    before, then older ones, and only then any that was never promoted.
    """
    if pointer is None:
        stays = any(folder.name == str(served) for folder in versions)
        return [folder for folder in versions if not stays or int(folder.name) >= (served or 0)]
    wanted = [pointer.version]
    if served is None:
        numbers = [int(folder.name) for folder in versions]
        older = [number for number in numbers if number < pointer.version]
        wanted += [*reversed(pointer.previous), *older, *numbers]
    return [folder for number in dict.fromkeys(wanted) for folder in versions if folder.name == str(number)]


def _look(models_dir: Path) -> Iterator[tuple[Path, Stamp]]:
    """Every version folder and every pointer, with what changes when it does."""
    for model_folder in sorted(models_dir.glob("[!.]*")):
        with suppress(OSError):  # no folder, or gone since
            for path in sorted(model_folder.iterdir()):
                if path.name.isdecimal():
                    yield path, tuple(_stamp(path / name) for name in (CARD_NAME, TORCHSCRIPT_NAME, ONNX_NAME))
                elif path.name == POINTER_NAME:
                    yield path, (_stamp(path),)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
