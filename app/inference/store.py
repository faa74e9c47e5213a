"""The models under the model folder: which there are, which are served, and why the others are not."""

import logging
from dataclasses import dataclass
from pathlib import Path

from app.artifact import Card, read_card, verify_digests
from app.errors import ArtifactError, ModelNotFoundError, NotReadyError
from app.images import DecodedImage
from app.inference.routing import choose_model
from app.inference.scheduler import ModelChooser, ServedModel
from app.inference.tuning import Tuning, load_fastest
from app.settings import Settings

logger = logging.getLogger(__name__)

AUTO = "auto"
RETRY_LOADING_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model folder that is not served."""

    folder: str
    reason: str


class ModelStore:
    """Every model of the folder: the newest good version of each is loaded and warm, the rest are cards."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tunings: dict[str, Tuning] = {}
        self._served: dict[str, ServedModel] = {}
        self._cards: dict[str, dict[int, tuple[Path, Card]]] = {}
        self.refusals: list[Refusal] = []
        self.ready = False
        self._loaded = False

    def load(self) -> None:
        """Load and warm up; `ready` turns true at the end if the default model can be served."""
        logger.info("loading the models under %s", self._settings.models_dir)
        for model_folder in sorted(path for path in self._settings.models_dir.glob("[!.]*") if path.is_dir()):
            versions = sorted((p for p in model_folder.iterdir() if p.name.isdecimal()), key=lambda p: -int(p.name))
            for folder in versions:
                self._take(folder)
        self._loaded = True
        self.ready = self._settings.default_model in self._served
        if not self.ready:
            logger.error("not ready: %s", self._why_not_ready())

    @property
    def names(self) -> list[str]:
        """Every model with at least one good version.

        Raises:
            NotReadyError: still loading.
        """
        if not self._loaded:
            raise NotReadyError(self._why_not_ready(), RETRY_LOADING_SECONDS)
        return sorted(self._cards)

    @property
    def thumbnail_model(self) -> str | None:
        """The model that `auto` takes for small grey pictures, if it is served."""
        name = self._settings.thumbnail_model
        return name if name in self._served else None

    def chooser(self, name: str, version: int | None = None) -> ModelChooser:
        """How to choose the model for a picture: always the one called `name`, or for `auto` by the picture.

        Raises:
            NotReadyError: still loading, or the default model cannot be served.
            ModelNotFoundError: no model of that name is served, or another version of it than the one wanted.
        """
        self.require_ready()
        if name == AUTO and version is None:
            return self._choose
        model = self._served.get(name)
        if model is None:
            raise ModelNotFoundError(name, version, sorted(self._served))
        if version not in (None, model.artifact.card.version):
            raise ModelNotFoundError(name, version, [f"{name}/{model.artifact.card.version}"])
        return lambda image: model

    def require_ready(self) -> None:
        """Do nothing if the default model is served.

        Raises:
            NotReadyError: it is not, and why.
        """
        if not self.ready:
            raise NotReadyError(self._why_not_ready(), RETRY_LOADING_SECONDS)

    def served_version(self, name: str) -> int | None:
        model = self._served.get(name)
        return model.artifact.card.version if model else None

    def tuning(self, name: str) -> Tuning | None:
        """How the served version is run; None if there is none."""
        return self._tunings.get(name)

    def versions(self, name: str) -> list[int]:
        return sorted(self._cards.get(name, {}))

    def card(self, name: str, version: int | None = None) -> tuple[Path, Card]:
        """Folder and card of a version, by default the served one.

        Raises:
            NotReadyError: still loading.
            ModelNotFoundError: no such model or version.
        """
        names = self.names
        found = self._cards.get(name, {}).get((self.served_version(name) if version is None else version) or 0)
        if found is None:
            raise ModelNotFoundError(name, version, [f"{n}/{v}" for n in names for v in self.versions(n)])
        return found

    def _choose(self, image: DecodedImage) -> ServedModel:
        name = choose_model(image, default_model=self._settings.default_model, thumbnail_model=self.thumbnail_model)
        return self._served[name]

    def _take(self, folder: Path) -> None:
        name = folder.parent.name
        try:
            card = read_card(folder)
            verify_digests(folder, card)
            if name not in self._served:  # else a newer version is served already
                wanted = None if self._settings.engine == "auto" else self._settings.engine
                artifact, tuning = load_fastest(
                    folder, card, wanted=wanted, max_batch_size=self._settings.max_batch_size
                )
                self._served[name] = ServedModel(artifact, tuning.batch_size)
                self._tunings[name] = tuning
                logger.info("serving %s version %d, SHA-256 %s", name, card.version, artifact.digest)
        except Exception as error:  # whatever is wrong with one folder, the others are served
            if not isinstance(error, ArtifactError):
                error = ArtifactError(folder, f"it fails to run ({error}).")
                logger.exception("%s fails to run", folder)
            self.refusals.append(Refusal(f"{name}/{folder.name}", str(error)))
            logger.error("%s", error)
            return
        self._cards.setdefault(name, {})[card.version] = (folder, card)

    def _why_not_ready(self) -> str:
        if not self._loaded:
            return "The models are being loaded."
        refused = " ".join(refusal.reason for refusal in self.refusals)
        folder = self._settings.models_dir.name
        return f"There is no usable model {self._settings.default_model!r} under {folder}/. {refused}".strip()
