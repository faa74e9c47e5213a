"""Files -> rows on every node of a Ray cluster, by Ray Data: `wardrobe sort --engine ray` (pip install '.[ray]').

The cluster is the one that `RAY_ADDRESS` names; without it Ray starts one on this machine. Each node sees the folder at
the same place, and has this package and the models. Ray shares out the files, and gives those of a node that dies to
another one.
"""

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import ray
import ray.data

from app.cli.classify import FileClassifier, NoModelError, local_classifier, wanted_sha256
from app.cli.results import Row

# Of one task, chosen, not tuned: a second of work on one core, so that a node that dies loses little, what is known
# stands in the CSV file soon, and Ray's share of the time, milliseconds a task, is small.
NUM_FILES_A_TASK = 64


class _Worker:
    """The models, loaded once, on one core of a node: a picture at a time, while others are read."""

    def __init__(self, models_dir: Path, model: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._opened = local_classifier(models_dir, model=model, num_threads=1)
        self._classifier = self._loop.run_until_complete(self._opened.__aenter__())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = self._loop.run_until_complete(self._classify([Path(os.fsdecode(path)) for path in batch["path"]]))
        columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
        return columns | {"path": [os.fsencode(row.path) for row in rows]}  # Arrow wants UTF-8 of a string

    async def _classify(self, paths: list[Path]) -> list[Row]:
        return [row async for rows in self._classifier.rows(paths) for row in rows]


@asynccontextmanager
async def cluster_classifier(models_dir: Path, *, model: str) -> AsyncGenerator[FileClassifier, None]:
    """The models of a folder, on every core of a cluster."""
    wanted = wanted_sha256(models_dir, model)
    folder = await asyncio.to_thread(models_dir.resolve)
    if not wanted:
        raise NoModelError(models_dir, model, "There is none.")
    # Quiet: the command shows how far it is, and what goes wrong is raised.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False

    class Cluster:
        served_sha256 = wanted

        async def rows(self, paths: Iterable[Path]) -> AsyncIterator[list[Row]]:
            items = [{"path": os.fsencode(path)} for path in paths]
            if not items:
                return
            files = ray.data.from_items(items, override_num_blocks=math.ceil(len(items) / NUM_FILES_A_TASK))
            num_cpus = int(ray.cluster_resources().get("CPU", 1))
            answers = files.map_batches(
                _Worker,
                batch_size=None,  # a block, which is a task
                fn_constructor_args=(folder, model),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, num_cpus)),
            )
            tables = iter(answers.iter_batches(batch_size=None, batch_format="pyarrow"))
            while (table := await asyncio.to_thread(next, tables, None)) is not None:
                yield [Row(**row | {"path": os.fsdecode(row["path"])}) for row in table.to_pylist()]

    try:
        yield Cluster()
    finally:
        ray.shutdown()
