"""The client that blocks until the answer is there."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
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


class WardrobeClient(AbstractContextManager["WardrobeClient"]):
    """Blocks until the answer is there.

    Every method raises a ClientError where there is no answer; what is wrong with one picture or item stands in its
    place instead. OSError: a file cannot be read or written.
    """

    def __init__(
        self,
        base_url: str = calls.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float = 120.0,
    ) -> None:
        """Open no connection yet.

        `timeout_seconds` is the longest silence on the line, `retry_seconds` the longest time for one request in all,
        with the waiting while the service is busy, starting or out of reach.
        """
        self._http = httpx.Client(**calls.http_options(base_url, api_key, timeout_seconds))
        self._retry_seconds = retry_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(self, pictures: Picture | Iterable[Picture], *, model: str = "auto", top_k: int = 3) -> list[Answer]:
        """Classify paths, bytes or open files, one or many."""
        return self._send(pictures, calls.predict(model=model, top_k=top_k))

    def models(self) -> ModelsResponse:
        """Which models there are, and which are served."""
        return self._do(calls.models())

    def card(self, name: str) -> dict[str, Any]:
        """The card of the served version as JSON, which is a `ServedCard` less its golden predictions."""
        return self._do(calls.card(name))

    def add(self, pictures: Picture | Iterable[Picture], *, model: str = "auto") -> list[AddedItem | FailedImagePublic]:
        """Classify pictures and keep them; the same bytes again are the item that is there."""
        return self._send(pictures, calls.add(model=model))

    def items(
        self,
        *,
        drawers: Iterable[Drawer] = (),
        labels: Iterable[str] = (),
        words: str = "",
        corrected: bool | None = None,
        possible_duplicate: bool | None = None,
        sort: str = "-added",
    ) -> Iterator[ItemPublic]:
        """All that fit, in the order of `sort` as in GET /items; pages are asked for as they are needed."""
        query = calls.query_of(
            drawers=drawers, labels=labels, words=words, corrected=corrected, possible_duplicate=possible_duplicate
        )
        cursor = None
        while True:
            page = self._do(calls.page(query | {"sort": sort}, cursor))
            yield from page.items
            if (cursor := page.next) is None:
                return

    def item(self, item_id: str) -> ItemPublic:
        return self._do(calls.item(item_id))

    def picture(self, item_id: str) -> bytes:
        """The bytes as they were sent."""
        return self._do(calls.picture(item_id))

    def correct(
        self,
        items: ItemReference | Iterable[ItemReference],
        *,
        label: str | None = None,
        drawer: Drawer | None = None,
    ) -> list[ChangedItem | FailedItem]:
        """Say what items are, or where they belong. One given as it was seen is refused if it changed since."""
        return self._change(items, calls.correction(label, drawer))

    def undo(self, items: ItemReference | Iterable[ItemReference]) -> list[ChangedItem | FailedItem]:
        """Take the last correction of each back."""
        return self._change(items, {"undo": True})

    def delete(self, items: ItemReference | Iterable[ItemReference]) -> list[DeletedItem | FailedItem]:
        """Remove items for good."""
        return [entry for call in calls.deletions(items) for entry in self._do(call)]

    def similar(
        self, pictures: Picture | Iterable[Picture], *, limit: int = 10
    ) -> list[SimilarPicture | FailedImagePublic]:
        """For each picture, which is not kept, the items most similar to it."""
        return self._send(pictures, calls.similar(limit=limit))

    def similar_items(self, item_id: str, *, limit: int = 10) -> SimilarItems:
        """The items most similar to one of them."""
        return self._do(calls.similar_items(item_id, limit=limit))

    def keep_both(self, item_id: str) -> ItemPublic:
        """Say that an item is no duplicate of the one that it looks like."""
        return self._do(calls.keep_both(item_id))

    def export(self, path: str | Path) -> None:
        """Write the whole wardrobe into a .zip file, to keep or to move, or a .csv file, as a table."""
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        response = self._request(calls.export(target))
        try:
            if not response.is_success:
                response.read()
            succeeded(response)
            with part.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
            part.replace(target)
        except httpx.TransportError as error:
            raise UnreachableError(str(self._http.base_url), error) from error
        finally:
            response.close()
            part.unlink(missing_ok=True)

    def import_zip(self, path: str | Path) -> ImportResponse:
        """Take over what `export` wrote; nothing is removed, and twice is the same as once."""
        return self._do(calls.import_zip(Path(path)))

    def _change(
        self, items: ItemReference | Iterable[ItemReference], change: dict[str, Any]
    ) -> list[ChangedItem | FailedItem]:
        return [entry for call in calls.changes(items, change) for entry in self._do(call)]

    def _send(self, pictures: Picture | Iterable[Picture], call: PictureCall[Entry]) -> list[Entry | FailedImagePublic]:
        return [entry for batch in calls.batches(pictures) for entry in self._send_batch(batch, call)]

    def _send_batch(self, batch: list[Upload], call: PictureCall[Entry]) -> list[Entry | FailedImagePublic]:
        try:
            return self._do(call.of(batch))
        except TooLargeError:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        return self._send_batch(batch[:half], call) + self._send_batch(batch[half:], call)

    def _do(self, call: Call[Result]) -> Result:
        return call.read(self._request(call))

    def _request(self, call: Call[Any]) -> httpx.Response:
        patience = Patience(self._retry_seconds, repeatable=call.repeatable)
        while True:
            try:
                response = self._try(call)
                if (seconds := patience.wait_seconds(response)) is None:
                    return response
                response.close()
            except httpx.TransportError as error:
                if (seconds := patience.wait_seconds(error)) is None:
                    raise UnreachableError(str(self._http.base_url), error) from error
            time.sleep(seconds)

    def _try(self, call: Call[Any]) -> httpx.Response:
        with ExitStack() as opened:
            body = None if call.upload is None else opened.enter_context(call.upload.open("rb"))
            request = self._http.build_request(call.method, call.path, content=body, **call.options)
            return self._http.send(request, stream=call.stream)
