"""The same models in LitServe, which batches in a process of its own, for `benchmarks.serving`.

    python -m benchmarks.litserve_peer PORT

One worker whose operations take all cores; batches of up to 8 of what arrives within 5 ms.
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
        torch.set_num_threads(available_cpus())
        self.wardrobe = Wardrobe()

    def decode_request(self, request: Request) -> Any:  # LitServe gives the parsed form of such a one
        return [self.wardrobe.prepare(part.file.read()) for part in request.getlist("file")]

    def predict(self, requests: Any) -> Any:
        return [[self.wardrobe.classify(name, tensor[None])[0] for name, tensor in it] for it in requests]

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    litserve.LitServer(WardrobeAPI(max_batch_size=8, batch_timeout=0.005), accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", generate_client_file=False
    )
