"""Gives kept items the embeddings that they lack: of the model that is served now, in the background."""

import asyncio
import logging
from contextlib import suppress

import numpy as np

from app.errors import ImageError, ItemNotFoundError, NoEmbeddingError, ServiceError, StorageOffError
from app.inference.predictor import InferenceError, Predictor
from app.inference.store import ModelStore
from app.settings import Settings
from app.store.similar import Embedded
from app.store.wardrobe import Wardrobe

LOOK_SECONDS = 10.0  # between looks for another version of the model, and after what cannot be done now
NUM_AT_A_TIME = 32  # items; both chosen, not tuned

logger = logging.getLogger(__name__)


class Embedder:
    """All items are compared by one model, the default one, whichever classified them.

    An item that it classified has its embedding from then on. Those of another model, of an older version or of an
    import get theirs one by one, while nobody waits for an answer; until then they are not found as similar.
    """

    def __init__(self, settings: Settings, store: ModelStore, predictor: Predictor, wardrobe: Wardrobe) -> None:
        self._name = settings.default_model
        self._store = store
        self._predictor = predictor
        self._wardrobe = wardrobe
        self._wanted = asyncio.Event()
        self._cannot: str | None = None  # digest of a model that gives no embeddings

    async def embedded(self, item_id: str) -> Embedded:
        """The embedding of an item; it is made now if there is none.

        Raises:
            NoEmbeddingError: the model gives none.
            ItemNotFoundError: there is no such item.
            ImageError: it cannot be decoded.
        """
        kept = await asyncio.to_thread(self._wardrobe.embedding, item_id, model=self._digest())
        return kept if kept is not None and kept.vector.size else await self._embed(item_id)

    async def num_waiting(self) -> int:
        """How many items have no embedding yet; sees to it that they get one."""
        number = await asyncio.to_thread(self._wardrobe.num_without_embedding, self._digest())
        if number:
            self._wanted.set()
        return number

    async def run(self) -> None:
        """Until cancelled."""
        done = None  # digest of the model that all items had embeddings of
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wanted.wait()
            try:
                digest = self._digest()
                if self._wanted.is_set() or digest not in (done, self._cannot):
                    self._wanted.clear()
                    await self._embed_all(digest)
                    done = digest
            except (ServiceError, StorageOffError, NoEmbeddingError):  # said elsewhere; looked at again later
                pass
            except Exception:  # whatever it is, it must not end this
                logger.exception("embeddings cannot be made now")
                await asyncio.sleep(LOOK_SECONDS)

    async def _embed_all(self, digest: str) -> None:
        num_done = 0
        while digest == self._digest():
            missing = await asyncio.to_thread(self._wardrobe.without_embedding, digest, limit=NUM_AT_A_TIME)
            if not missing:
                break
            for item_id in missing:
                await self._predictor.wait_until_idle()
                try:
                    await self._embed(item_id)
                except (ImageError, InferenceError):  # as it was imported: nobody looked into it then
                    nothing = Embedded(digest, np.empty(0, np.float32))
                    await asyncio.to_thread(self._wardrobe.keep_embedding, item_id, nothing)
                except ItemNotFoundError:
                    pass
                num_done += 1
        if num_done:
            logger.info("%d items have embeddings of %s now", num_done, self._name)

    async def _embed(self, item_id: str) -> Embedded:
        content = await asyncio.to_thread(self._wardrobe.picture, item_id)
        artifact, vector = await self._predictor.embed(content, choose=self._store.chooser(self._name))
        if vector is None:
            self._cannot = artifact.digest
            raise NoEmbeddingError(f"{artifact.card.name}/{artifact.card.version}")
        embedded = Embedded(artifact.digest, vector)
        await asyncio.to_thread(self._wardrobe.keep_embedding, item_id, embedded)
        return embedded

    def _digest(self) -> str:
        """Of the version that is served now."""
        self._store.require_ready()
        return self._store.card(self._name)[1].sha256["model.pt"]
