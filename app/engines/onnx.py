"""model.onnx: the network alone, for ONNX Runtime; the preprocessing is repeated with NumPy and Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from app.artifact import (
    EMBEDDING_OUTPUT,
    EVIDENCE_OUTPUT,
    GARMENT_OUTPUT,
    LOGITS_OUTPUT,
    ONNX_NAME,
    Card,
    InputRule,
    Outputs,
)
from app.engines.recipes import RECIPES
from app.errors import ArtifactError


class OnnxEngine:
    """Runs model.onnx."""

    name = "onnxruntime"

    def __init__(self, session: Any, rule: InputRule) -> None:
        """`session` is an `onnxruntime.InferenceSession`."""
        self._session = session
        self._rule = rule
        self._recipe = RECIPES[rule.recipe]
        self._input_name = session.get_inputs()[0].name
        there = {output.name for output in session.get_outputs()}
        self._has_evidence = EVIDENCE_OUTPUT in there
        self._wanted = [name for name in (LOGITS_OUTPUT, GARMENT_OUTPUT, EMBEDDING_OUTPUT) if name in there]

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """See `Engine.preprocess`."""
        scaled = self._recipe(pixels, self._rule.size_pixels)  # (C, S, S) in 0..255
        return (scaled - np.float32(255 * self._rule.mean)) * np.float32(1 / (255 * self._rule.std))

    def outputs(self, batch: np.ndarray) -> Outputs:
        """See `Engine.outputs`."""
        found = self._session.run(self._wanted, {self._input_name: batch})
        by_name = dict(zip(self._wanted, found, strict=True))
        return Outputs(by_name[LOGITS_OUTPUT], by_name.get(GARMENT_OUTPUT), by_name.get(EMBEDDING_OUTPUT))

    def evidence(self, batch: np.ndarray) -> np.ndarray | None:
        """See `Engine.evidence`."""
        if not self._has_evidence:
            return None
        found: np.ndarray = self._session.run([EVIDENCE_OUTPUT], {self._input_name: batch})[0]
        return found


def load_engine(folder: Path, card: Card, *, num_threads: int | None) -> OnnxEngine:
    """Load model.onnx. `num_threads` run one operation; None takes as many as there are cores.

    Raises:
        ArtifactError: the file is no ONNX network, or the card does not say how to prepare a picture for it.
    """
    if card.input.recipe is None:
        raise ArtifactError(folder, "its card names no recipe for preprocessing without torch.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(folder / ONNX_NAME, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but this
        raise ArtifactError(folder, f"{ONNX_NAME} is no network that ONNX Runtime can load.") from error
    return OnnxEngine(session, card.input)
