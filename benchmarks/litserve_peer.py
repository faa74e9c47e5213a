"""The same models in LitServe, which batches in processes of its own, for `benchmarks.serving`.

    python -m benchmarks.litserve_peer PORT

TUNING
"""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request

from app.inference.threads import available_cpus
from benchmarks.peers import Wardrobe


class WardrobeAPI(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.wardrobe = Wardrobe()

    def decode_request(self, request: Request) -> Any:  # LitServe gives the parsed form of such a one
        return [self.wardrobe.prepare(part.file.read()) for part in request.getlist("file")]

    def predict(self, requests: Any) -> Any:
        answers = iter(self.wardrobe.classify([prepared for request in requests for prepared in request]))
        return [[next(answers) for _ in request] for request in requests]

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    litserve.LitServer(
        WardrobeAPI(max_batch_size=8, batch_timeout=0.005), accelerator="cpu", workers_per_device=available_cpus()
    ).run(port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", generate_client_file=False)
