"""The same models in plain FastAPI, as its documentation would have it, for `benchmarks.serving`.

    python -m benchmarks.peers PORT

Decodes in full with Pillow and runs model.pt in FastAPI's thread pool: one thread for an operation, as many requests at
a time as there are cores. Tried with 8 clients on a busy two-core machine (2026-11-25, one round of 2.5 s), in ms of
processor time for a 12-megapixel photo: 308; two threads for each operation, one request at a time: 670; one thread,
40 requests at a time (FastAPI's default): 376.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image, ImageOps

from app.engines import load_artifact
from app.inference.threads import available_cpus

MODELS = Path("models")
MAX_THUMBNAIL_SIDE_PIXELS = 64


class Wardrobe:
    """Both models and the plain way through them."""

    def __init__(self) -> None:
        newest = {path: max(path.glob("*/"), key=lambda it: int(it.name)) for path in MODELS.iterdir() if path.is_dir()}
        self.models = {path.name: load_artifact(folder) for path, folder in newest.items()}

    def prepare(self, content: bytes) -> tuple[str, np.ndarray]:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        name = "fashion-mnist" if max(image.size) <= MAX_THUMBNAIL_SIDE_PIXELS else "wardrobe"
        return name, self.models[name].preprocess(np.asarray(image.convert("RGB")))

    def classify(self, prepared: Sequence[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
        """Label each picture, those for the same model in one batch."""
        answers: dict[int, dict[str, Any]] = {}
        for name, model in self.models.items():
            indices = [index for index, (wanted, _) in enumerate(prepared) if wanted == name]
            if not indices:
                continue
            scores = model.scores(np.stack([prepared[index][1] for index in indices]))
            for index, it in zip(indices, scores, strict=True):
                label = model.card.class_names[int(it.probabilities.argmax())]
                answers[index] = {"label": label, "probability": float(it.probabilities.max())}
        return [answers[index] for index in range(len(prepared))]


def fastapi_app() -> FastAPI:
    """A route that is no coroutine: FastAPI runs it in its thread pool, where torch releases the GIL."""
    torch.set_num_threads(1)
    wardrobe, app = Wardrobe(), FastAPI()

    @app.post("/predict")
    def predict(file: list[UploadFile]) -> list[dict[str, Any]]:
        return wardrobe.classify([wardrobe.prepare(part.file.read()) for part in file])

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.on_event("startup")
    async def limit_threads() -> None:
        import anyio.to_thread  # noqa: PLC0415

        anyio.to_thread.current_default_thread_limiter().total_tokens = available_cpus()

    return app


if __name__ == "__main__":
    uvicorn.run(fastapi_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
