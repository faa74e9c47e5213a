"""model.pt: network and preprocessing in one file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.artifact import TORCHSCRIPT_NAME, Card, Outputs
from app.errors import ArtifactError


class TorchScriptEngine:
    """Runs model.pt. TorchScript is code: only files of the project's own model folder get here."""

    name = "torchscript"

    def __init__(self, module: Any) -> None:
        """`module` is a `torch.jit.ScriptModule`."""
        self.module = module

    @torch.inference_mode()
    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """See `Engine.preprocess`."""
        # Its own memory, because torch warns of read-only arrays; the channels stay next to each other.
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)  # (3, H, W)
        preprocessed: np.ndarray = self.module.preprocess(image).numpy()
        return preprocessed

    @torch.inference_mode()
    def outputs(self, batch: np.ndarray) -> Outputs:
        """See `Engine.outputs`."""
        logits, garment, _, embedding = self._run(batch)
        return Outputs(logits, garment, embedding)

    @torch.inference_mode()
    def evidence(self, batch: np.ndarray) -> np.ndarray | None:
        """See `Engine.evidence`."""
        return self._run(batch)[2]

    def _run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Logits, garment logits, evidence and embeddings: what is missing at the end is None."""
        outputs = self.module(torch.from_numpy(batch))
        logits, *rest = [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
        garment, evidence, embedding = [*rest, None, None, None][:3]
        return logits, garment, evidence, embedding


def load_engine(folder: Path, card: Card, *, num_threads: int | None) -> TorchScriptEngine:
    """Load model.pt onto the CPU. `num_threads` run one operation, in the whole process; None leaves that as it is.

    Raises:
        ArtifactError: the file is no TorchScript.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        return TorchScriptEngine(load_torchscript(folder / TORCHSCRIPT_NAME))
    except RuntimeError as error:  # all that torch.jit.load raises
        raise ArtifactError(folder, f"{TORCHSCRIPT_NAME} is not TorchScript.") from error


def load_torchscript(path: Path, *, trainable: bool = False, device: str = "cpu") -> torch.jit.ScriptModule:
    """Load with BatchNorm folded into the convolutions, which is faster; `trainable` leaves every weight its name."""
    with warnings.catch_warnings():  # TorchScript is deprecated in favour of torch.export; model.onnx is the way out
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        module: torch.jit.ScriptModule = torch.jit.load(path, map_location=device)
        if not trainable and any(True for _ in module.parameters()):  # else it was folded before it was saved
            module = torch.jit.freeze(module, preserved_attrs=["preprocess"])
    return module
