"""Time of one forward pass, one picture at a time, in both engines and in two other forms of the first.

    python -m benchmarks.forward models/wardrobe/4 models/fashion-mnist/1

prints the median and the 95th percentile in milliseconds, and the ratio to the first engine. The picture's decoding and
preprocessing are timed apart, for a 12-megapixel JPEG made here.

model.pt is frozen already. On a busy two-core machine (2026-11-25; one thread, median of 60 passes in turn) a batch in
channels-last order (the frozen weights stay as they are) took 0.97 of its time with wardrobe/1 and 0.94 with
fashion-mnist/1, `torch.jit.optimize_for_inference` 1.28 and 1.00 (in batches of 8: 1.24 and 0.86), same answers
to 1e-6: no gain worth another form of the model.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from app.artifact import ONNX_NAME, TORCHSCRIPT_NAME
from app.engines import load_artifact
from app.engines.torchscript import TorchScriptEngine, load_torchscript
from app.images import decode
from app.inference.threads import available_cpus

NUM_WARM_UP, NUM_RUNS = 20, 200


def milliseconds(run: Callable[[], object], num_runs: int = NUM_RUNS) -> np.ndarray:
    """Duration of each of `num_runs` calls, after a warm-up."""
    for _ in range(min(NUM_WARM_UP, num_runs)):
        run()
    durations = np.empty(num_runs)
    for index in range(num_runs):
        started = time.perf_counter()
        run()
        durations[index] = 1_000 * (time.perf_counter() - started)
    return durations


def photo() -> bytes:
    """A JPEG of 4000 x 3000 pixels with smooth and busy parts."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folders", type=Path, nargs="+", help="exported models")
    folders = parser.parse_args().folders
    torch.set_num_threads(available_cpus())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    content = photo()
    pixels = decode(content).pixels
    print(f"{available_cpus()} threads, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    print(f"{'':<36}{'median ms':>12}{'95 % below':>12}{'ratio':>8}")
    rows = [("decode 12 megapixels", milliseconds(lambda: decode(content), 20), None)]
    for folder in folders:
        artifact = load_artifact(folder)
        batch = artifact.preprocess(pixels)[None]
        session = onnxruntime.InferenceSession(folder / ONNX_NAME, options, providers=["CPUExecutionProvider"])
        torchscript = milliseconds(lambda a=artifact, b=batch: a.engine.outputs(b))
        channels_last = torch.from_numpy(batch).to(memory_format=torch.channels_last).numpy()
        last = milliseconds(lambda a=artifact, b=channels_last: a.engine.outputs(b))
        optimised = TorchScriptEngine(torch.jit.optimize_for_inference(load_torchscript(folder / TORCHSCRIPT_NAME)))
        inference = milliseconds(lambda e=optimised, b=batch: e.outputs(b))
        onnx = milliseconds(lambda s=session, b=batch: s.run(None, {"images": b}))
        name = artifact.card.name
        rows.append((f"{name}: preprocess", milliseconds(lambda a=artifact: a.preprocess(pixels)), None))
        rows.append((f"{name}: forward, TorchScript", torchscript, torchscript))
        rows.append((f"{name}: forward, channels last", last, torchscript))
        rows.append((f"{name}: forward, optimised", inference, torchscript))
        rows.append((f"{name}: forward, ONNX Runtime", onnx, torchscript))
    for name, durations, baseline in rows:
        ratio = "" if baseline is None else f"{np.median(durations) / np.median(baseline):.2f}"
        print(f"{name:<36}{np.median(durations):>12.1f}{np.percentile(durations, 95):>12.1f}{ratio:>8}")


if __name__ == "__main__":
    main()
