"""Other ways to serve the same models, for `benchmarks.serving`: each as its own documentation would have it.

    python -m benchmarks.peers fastapi 8001     endpoints in FastAPI's thread pool
    python -m benchmarks.peers litserve 8002    LitServe, which batches in a process of its own

Both decode with Pillow and run model.pt. Threads were tuned on two cores: one for each operation and as many at a time
as there are cores were the fastest of (1, 2, 4) x (1, 2) for FastAPI; one worker with two threads for LitServe.
"""

import io
import sys
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
        newest = {path: max(path.iterdir(), key=lambda it: int(it.name)) for path in MODELS.iterdir() if path.is_dir()}
        self.models = {path.name: load_artifact(folder) for path, folder in newest.items()}

    def prepare(self, content: bytes) -> tuple[str, np.ndarray]:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        name = "fashion-mnist" if max(image.size) <= MAX_THUMBNAIL_SIDE_PIXELS else "wardrobe"
        return name, self.models[name].preprocess(np.asarray(image.convert("RGB")))

    def classify(self, name: str, batch: np.ndarray) -> list[dict[str, Any]]:
        scores = self.models[name].scores(batch)
        labels = self.models[name].card.class_names
        return [
            {"label": labels[int(it.probabilities.argmax())], "probability": float(it.probabilities.max())}
            for it in scores
        ]


def fastapi_app() -> FastAPI:
    """A route that is no coroutine: FastAPI runs it in its thread pool, where torch releases the GIL."""
    torch.set_num_threads(1)
    wardrobe, app = Wardrobe(), FastAPI()

    @app.post("/predict")
    def predict(file: list[UploadFile]) -> list[dict[str, Any]]:
        prepared = [wardrobe.prepare(part.file.read()) for part in file]
        return [wardrobe.classify(name, tensor[None])[0] for name, tensor in prepared]

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.on_event("startup")
    async def limit_threads() -> None:
        import anyio.to_thread  # noqa: PLC0415

        anyio.to_thread.current_default_thread_limiter().total_tokens = available_cpus()

    return app


def serve_with_litserve(port: int) -> None:
    """Decoding and inference in one worker process, in batches of what arrives within 5 ms."""
    import litserve  # noqa: PLC0415  # only for the benchmark: not among the project's dependencies

    class WardrobeAPI(litserve.LitAPI):  # type: ignore[misc]
        def setup(self, device: str) -> None:
            torch.set_num_threads(available_cpus())
            self.wardrobe = Wardrobe()

        def decode_request(self, request: Any) -> Any:
            files = request.getlist("file") if hasattr(request, "getlist") else [request["file"]]
            return [self.wardrobe.prepare(part.file.read()) for part in files]

        def predict(self, requests: Any) -> Any:
            return [[self.wardrobe.classify(name, tensor[None])[0] for name, tensor in it] for it in requests]

        def encode_response(self, output: Any) -> Any:
            return {"predictions": output}

    api = WardrobeAPI(max_batch_size=8, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=port, host="127.0.0.1", log_level="warning", generate_client_file=False
    )


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    if name == "litserve":
        serve_with_litserve(port)
    else:
        uvicorn.run(fastapi_app(), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
