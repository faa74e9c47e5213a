"""The same models in LitServe, whose workers are processes of their own, for `benchmarks.serving`.

    python -m benchmarks.litserve_peer PORT

As many workers as cores, one thread each, the fast queue, no batching of requests; the pictures of one request go
through the network together. Tried with 8 clients on a busy two-core machine (2026-11-25, one round of 2.5 s),
compared by the server's processor time for a picture, in ms:

                                                      400 px photo    12 MP photo
    2 workers, no batching, fast queue                          26            311
    2 workers, batches of 4 within 1 ms                         30            317
    the same, pictures one by one                               28            318
    2 workers, batches of 8 within 5 ms                         31            329
    1 worker, all threads, batches of 8 within 5 ms            216            536
    1 worker, all threads, 16 within 10 ms, fast queue,
    decoding in a pool of threads                               29            294
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

    def predict(self, prepared: Any) -> Any:
        return self.wardrobe.classify(prepared)

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    litserve.LitServer(WardrobeAPI(), accelerator="cpu", workers_per_device=available_cpus(), fast_queue=True).run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", generate_client_file=False
    )
