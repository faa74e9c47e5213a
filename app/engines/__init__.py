"""The two ways to run an artefact: TorchScript, the contract itself, and ONNX Runtime, which needs no torch."""

import importlib
import importlib.util
from pathlib import Path
from typing import Literal

from app.artifact import Artifact, Card, check_golden, read_card, verify_digests

EngineName = Literal["torchscript", "onnxruntime"]

# engine -> the package it needs, the module that loads it. Imported when it is used: torch takes a second and 150 MB.
_ENGINES: dict[EngineName, tuple[str, str]] = {
    "torchscript": ("torch", "app.engines.torchscript"),
    "onnxruntime": ("onnxruntime", "app.engines.onnx"),
}
# Largest difference of a golden probability. float32 sums in another order (other CPU, engine or batch size) move it by
# about 1e-6, another library's resize by up to 3e-4.
GOLDEN_TOLERANCE = 1e-3


def installed_engines() -> list[EngineName]:
    """Those whose package is there."""
    return [name for name, (package, _) in _ENGINES.items() if importlib.util.find_spec(package)]


def load_artifact(folder: Path) -> Artifact:
    """Load a model folder with TorchScript, the file that the contract is about.

    Raises:
        ArtifactError: why the folder must not be served.
    """
    card = read_card(folder)
    verify_digests(folder, card)
    return load_verified(folder, card, engine="torchscript")


def load_verified(folder: Path, card: Card, *, engine: EngineName, num_threads: int | None = None) -> Artifact:
    """Load a model folder whose digests were checked, and return it after its golden predictions match.

    Raises:
        ArtifactError: why it must not be served with this engine.
    """
    module = importlib.import_module(_ENGINES[engine][1])
    artifact = Artifact(folder, card, module.load_engine(folder, card, num_threads=num_threads))
    check_golden(artifact, tolerance=GOLDEN_TOLERANCE)
    return artifact
