"""Prometheus metrics, one registry for each application, so that two in one process do not mix.

With several processes `PROMETHEUS_MULTIPROC_DIR` is set before this is imported: prometheus_client then keeps the
values in files there, and whichever process is asked adds them up.
"""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# 0.25 ms to 16 s, doubling: from the forward pass of a small network to a phone photo on a busy machine.
SECONDS_BUCKETS = tuple(0.00025 * 2**exponent for exponent in range(17))


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "wardrobe_requests",
            "Requests answered; method and route are `unknown` where they were refused before. Status 499: the client "
            "left first.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "wardrobe_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "wardrobe_stage_seconds",
            "Time of one image in a stage: wait (for a worker), decode, preprocess, queue (for the batch), infer.",
            ["stage", "model"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.images = Counter(
            "wardrobe_images",
            "Images by model, label and outcome: sorted, review, not_a_garment, refused (the file cannot be read) or "
            "failed (our fault). Model and label are empty where there is none.",
            ["model", "label", "outcome"],
            registry=self.registry,
        )
        self.queue_images = Gauge(
            "wardrobe_queue_images",
            "Images accepted and not yet answered.",
            multiprocess_mode="livesum",  # what waited in a process that died is not waiting any more
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "wardrobe_batch_size",
            "Images in one forward pass.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """What Prometheus reads, of all processes together."""
        return generate_latest(self._registry_of_all())

    def total(self, sample_name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels, of all processes together."""
        samples = (sample for family in self._registry_of_all().collect() for sample in family.samples)
        return sum(it.value for it in samples if it.name == sample_name and labels.items() <= it.labels.items())

    def _registry_of_all(self) -> CollectorRegistry:
        folder = os.environ.get(MULTIPROCESS_FOLDER_VARIABLE)
        if folder is None:
            return self.registry
        for file in Path(folder).glob("gauge_live*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not _is_running(pid):
                mark_process_dead(pid)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return registry


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    return True
