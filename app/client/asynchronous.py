"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

import httpx

from app.api.item_schemas import (
    AddedItem,
    ChangedItem,
    DeletedItem,
    FailedItem,
    ImportResponse,
    ItemPublic,
    SimilarItems,
    SimilarPicture,
)
from app.api.schemas import FailedImagePublic, ModelsResponse
from app.artifact import Drawer
from app.client import calls
from app.client.calls import Answer, Call, Entry, ItemReference, Patience, Picture, PictureCall, Result, Upload
from app.client.errors import TooLargeError, UnreachableError, succeeded


class AsyncWardrobeClient(AbstractAsyncContextManager["AsyncWardrobeClient"]):
    """WardrobeClient for asyncio; any number of calls may run at a time. Files are read in another thread."""

    def __init__(
        self,
        base_url: str = calls.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float = 120.0,
    ) -> None:
        """As WardrobeClient."""
        self._http = httpx.AsyncClient(**calls.http_options(base_url, api_key, timeout_seconds))
        self._retry_seconds = retry_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def predict(
        self, pictures: Picture | Iterable[Picture], *, model: str = "auto", top_k: int = 3
    ) -> list[Answer]:
        """Classify paths, bytes or open files, one or many."""
        return await self._send(pictures, calls.predict(model=model, top_k=top_k))

    async def models(self) -> ModelsResponse:
        """Which models there are, and which are served."""
        return await self._do(calls.models())

    async def card(self, name: str) -> dict[str, Any]:
        """The card of the served version as JSON, which is a `ServedCard` less its golden predictions."""
        return await self._do(calls.card(name))

    async def add(
        self, pictures: Picture | Iterable[Picture], *, model: str = "auto"
    ) -> list[AddedItem | FailedImagePublic]:
        """Classify pictures and keep them; the same bytes again are the item that is there."""
        return await self._send(pictures, calls.add(model=model))

    async def items(
        self,
        *,
        drawers: Iterable[Drawer] = (),
        labels: Iterable[str] = (),
        words: str = "",
        corrected: bool | None = None,
        possible_duplicate: bool | None = None,
        sort: str = "-added",
    ) -> AsyncIterator[ItemPublic]:
        """All that fit, in the order of `sort` as in GET /items; pages are asked for as they are needed."""
        query = calls.query_of(
            drawers=drawers, labels=labels, words=words, corrected=corrected, possible_duplicate=possible_duplicate
        )
        cursor = None
        while True:
            page = await self._do(calls.page(query | {"sort": sort}, cursor))
            for item in page.items:
                yield item
            if (cursor := page.next) is None:
                return

    async def item(self, item_id: str) -> ItemPublic:
        return await self._do(calls.item(item_id))

    async def picture(self, item_id: str) -> bytes:
        """The bytes as they were sent."""
        return await self._do(calls.picture(item_id))

    async def correct(
        self,
        items: ItemReference | Iterable[ItemReference],
        *,
        label: str | None = None,
        drawer: Drawer | None = None,
    ) -> list[ChangedItem | FailedItem]:
        """Say what items are, or where they belong. One given as it was seen is refused if it changed since."""
        return await self._change(items, calls.correction(label, drawer))

    async def undo(self, items: ItemReference | Iterable[ItemReference]) -> list[ChangedItem | FailedItem]:
        """Take the last correction of each back."""
        return await self._change(items, {"undo": True})

    async def delete(self, items: ItemReference | Iterable[ItemReference]) -> list[DeletedItem | FailedItem]:
        """Remove items for good."""
        return [entry for call in calls.deletions(items) for entry in await self._do(call)]

    async def similar(
        self, pictures: Picture | Iterable[Picture], *, limit: int = 10
    ) -> list[SimilarPicture | FailedImagePublic]:
        """For each picture, which is not kept, the items most similar to it."""
        return await self._send(pictures, calls.similar(limit=limit))

    async def similar_items(self, item_id: str, *, limit: int = 10) -> SimilarItems:
        """The items most similar to one of them."""
        return await self._do(calls.similar_items(item_id, limit=limit))

    async def keep_both(self, item_id: str) -> ItemPublic:
        """Say that an item is no duplicate of the one that it looks like."""
        return await self._do(calls.keep_both(item_id))

    async def export(self, path: str | Path) -> None:
        """Write the whole wardrobe into a .zip file, to keep or to move, or a .csv file, as a table."""
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        response = await self._request(calls.export(target))
        try:
            if not response.is_success:
                await response.aread()
            succeeded(response)
            with part.open("wb") as file:
                async for piece in response.aiter_bytes():
                    await asyncio.to_thread(file.write, piece)
            part.replace(target)
        except httpx.TransportError as error:
            raise UnreachableError(str(self._http.base_url), error) from error
        finally:
            await response.aclose()
            part.unlink(missing_ok=True)

    async def import_zip(self, path: str | Path) -> ImportResponse:
        """Take over what `export` wrote; nothing is removed, and twice is the same as once."""
        return await self._do(calls.import_zip(Path(path)))

    async def _change(
        self, items: ItemReference | Iterable[ItemReference], change: dict[str, Any]
    ) -> list[ChangedItem | FailedItem]:
        return [entry for call in calls.changes(items, change) for entry in await self._do(call)]

    async def _send(
        self, pictures: Picture | Iterable[Picture], call: PictureCall[Entry]
    ) -> list[Entry | FailedImagePublic]:
        entries: list[Entry | FailedImagePublic] = []
        batches = calls.batches(pictures)
        while batch := await asyncio.to_thread(next, batches, None):
            answered = await self._send_batch(batch, call)
            entries.extend(answered)
        return entries

    async def _send_batch(self, batch: list[Upload], call: PictureCall[Entry]) -> list[Entry | FailedImagePublic]:
        try:
            return await self._do(call.of(batch))
        except TooLargeError:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        return await self._send_batch(batch[:half], call) + await self._send_batch(batch[half:], call)

    async def _do(self, call: Call[Result]) -> Result:
        return call.read(await self._request(call))

    async def _request(self, call: Call[Any]) -> httpx.Response:
        patience = Patience(self._retry_seconds, repeatable=call.repeatable)
        while True:
            try:
                response = await self._try(call)
                if (seconds := patience.wait_seconds(response)) is None:
                    return response
                await response.aclose()
            except httpx.TransportError as error:
                if (seconds := patience.wait_seconds(error)) is None:
                    raise UnreachableError(str(self._http.base_url), error) from error
            await asyncio.sleep(seconds)

    async def _try(self, call: Call[Any]) -> httpx.Response:
        body = None if call.upload is None else _pieces(call.upload)
        request = self._http.build_request(call.method, call.path, content=body, **call.options)
        return await self._http.send(request, stream=call.stream)


async def _pieces(path: Path) -> AsyncGenerator[bytes, None]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, calls.PIECE_BYTES):
            yield piece
