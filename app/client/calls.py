"""What both clients send and how they read what comes back; neither knows how it travels."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

import httpx

from app.api.item_schemas import (
    AddedItem,
    AddResponse,
    ChangedItem,
    ChangeResponse,
    DeletedItem,
    DeleteResponse,
    FailedItem,
    ImportResponse,
    ItemPublic,
    ItemsPage,
    SimilarItems,
    SimilarPicture,
    SimilarResponse,
)
from app.api.schemas import FailedImagePublic, ModelsResponse, PredictionPublic, PredictResponse, Problem
from app.artifact import Drawer
from app.client.errors import checked, error_of, parsed, problem_of, succeeded

Picture = str | Path | bytes | BinaryIO
Answer = PredictionPublic | FailedImagePublic
ItemReference = str | ItemPublic  # an id: whatever it is now; an item: only if it is as it was seen
Result = TypeVar("Result")
Entry = TypeVar("Entry")

DEFAULT_URL = "http://127.0.0.1:8000"
# Chosen, not tuned: they fill the workers of a service and stay far below its default limits. A service with lower
# ones says so, and the batch is halved.
MAX_BATCH_IMAGES, MAX_BATCH_BYTES = 32, 16 * 2**20
MAX_BATCH_ITEMS = 1000  # the service's own limit
PAGE_ITEMS = 500  # likewise
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 5.0  # where the service does not say; doubles each time
JITTER = 0.25  # of a wait: clients that were turned away together do not come back together
PIECE_BYTES = 2**20  # of a file on its way

# Last part of a problem's type -> it is of the one picture that was sent. tests/app/test_client.py compares.
IMAGE_PROBLEMS = frozenset(
    {
        "empty-image",
        "unsupported-image-format",
        "image-too-large",
        "image-too-complex",
        "undecodable-image",
        "internal-error",
        "body-too-large",
    }
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was read."""

    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """A request, and what its answer is.

    One that is not `repeatable` is not sent again once it may have arrived. The body is the file `upload`, if there is
    one; the answer's is not read yet where it is a `stream`.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], Result]
    options: dict[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    upload: Path | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class PictureCall(Generic[Entry]):
    """A request with pictures: how a batch of them is sent, and one entry for each read from the answer."""

    path: str
    parameters: dict[str, Any]
    entries: Callable[[httpx.Response], Sequence[Entry]]

    def of(self, batch: list[Upload]) -> Call[list[Entry | FailedImagePublic]]:
        files = [("file", (upload.filename, upload.content)) for upload in batch]
        options = {"params": self.parameters, "files": files}
        return Call("POST", self.path, lambda response: self._read(response, batch), options)

    def _read(self, response: httpx.Response, batch: list[Upload]) -> list[Entry | FailedImagePublic]:
        """One for each picture, also where none could be read and the whole answer is a problem.

        Raises:
            ProblemError: of the request and not of a picture.
        """
        if response.is_success:
            return list(self.entries(response))
        problem = problem_of(response)
        if errors := getattr(problem, "errors", None):
            return [_failed(error["filename"], error["error"]) for error in errors]
        if len(batch) == 1 and problem.type.rpartition(":")[2] in IMAGE_PROBLEMS:
            return [FailedImagePublic(filename=batch[0].filename, error=problem)]
        raise error_of(problem)


def _failed(filename: str | None, problem: dict[str, Any]) -> FailedImagePublic:
    return FailedImagePublic(filename=filename, error=Problem.model_validate(problem))


def predict(*, model: str, top_k: int) -> PictureCall[PredictionPublic | FailedImagePublic]:
    parameters = {"model": model, "top_k": top_k}
    return PictureCall("/predict", parameters, lambda response: parsed(PredictResponse, response).predictions)


def add(*, model: str) -> PictureCall[AddedItem | FailedImagePublic]:
    return PictureCall("/items", {"model": model}, lambda response: parsed(AddResponse, response).items)


def similar(*, limit: int) -> PictureCall[SimilarPicture | FailedImagePublic]:
    return PictureCall("/similar", {"limit": limit}, lambda response: parsed(SimilarResponse, response).pictures)


def models() -> Call[ModelsResponse]:
    return Call("GET", "/models", lambda response: parsed(ModelsResponse, response))


def card(name: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/models/{name}", checked)


def item(item_id: str) -> Call[ItemPublic]:
    return Call("GET", f"/items/{item_id}", lambda response: parsed(ItemPublic, response))


def page(query: dict[str, Any], cursor: str | None) -> Call[ItemsPage]:
    parameters = query | {"limit": PAGE_ITEMS} | ({} if cursor is None else {"cursor": cursor})
    return Call("GET", "/items", lambda response: parsed(ItemsPage, response), {"params": parameters})


def query_of(
    *,
    drawers: Iterable[Drawer],
    labels: Iterable[str],
    words: str,
    corrected: bool | None,
    possible_duplicate: bool | None,
) -> dict[str, Any]:
    """Which items, as parameters."""
    query: dict[str, Any] = {"drawer": list(drawers), "label": list(labels), "q": words}
    if corrected is not None:
        query["corrected"] = corrected
    if possible_duplicate is not None:
        query["possible_duplicate"] = possible_duplicate
    return query


def correction(label: str | None, drawer: Drawer | None) -> dict[str, Any]:
    return {name: value for name, value in (("label", label), ("drawer", drawer)) if value is not None}


def changes(
    items: ItemReference | Iterable[ItemReference], change: dict[str, Any]
) -> Iterator[Call[list[ChangedItem | FailedItem]]]:
    """One for each thousand items. Twice would be two corrections."""
    for some in _slices(items):
        body = {"items": some, "change": change}
        yield Call("PATCH", "/items", lambda r: parsed(ChangeResponse, r).items, {"json": body}, repeatable=False)


def deletions(items: ItemReference | Iterable[ItemReference]) -> Iterator[Call[list[DeletedItem | FailedItem]]]:
    for some in _slices(items):
        yield Call("POST", "/items/delete", lambda r: parsed(DeleteResponse, r).items, {"json": {"items": some}})


def similar_items(item_id: str, *, limit: int) -> Call[SimilarItems]:
    options = {"params": {"limit": limit}}
    return Call("GET", f"/items/{item_id}/similar", lambda response: parsed(SimilarItems, response), options)


def keep_both(item_id: str) -> Call[ItemPublic]:
    path = f"/items/{item_id}/possible-duplicate"
    return Call("DELETE", path, lambda response: parsed(ItemPublic, response))


def picture(item_id: str) -> Call[bytes]:
    return Call("GET", f"/items/{item_id}/picture", lambda response: succeeded(response).content)


def export(path: Path) -> Call[httpx.Response]:
    """What of the wardrobe goes into a file of this name.

    Raises:
        ValueError: neither .zip nor .csv.
    """
    suffix = path.suffix.lower()
    if suffix not in (".zip", ".csv"):
        raise ValueError(f"{path.name} is neither a .zip nor a .csv file.")
    return Call("GET", f"/items/export{suffix}", succeeded, stream=True)


def import_zip(path: Path) -> Call[ImportResponse]:
    headers = {"Content-Type": "application/zip"}
    return Call("POST", "/items/import", lambda r: parsed(ImportResponse, r), {"headers": headers}, upload=path)


def _slices(items: ItemReference | Iterable[ItemReference]) -> Iterator[list[dict[str, Any]]]:
    several = [items] if isinstance(items, str | ItemPublic) else list(items)
    seen = [{"id": it.id, "revision": it.revision} if isinstance(it, ItemPublic) else {"id": it} for it in several]
    for start in range(0, len(seen), MAX_BATCH_ITEMS):
        yield seen[start : start + MAX_BATCH_ITEMS]


class Patience:
    """Says of one request how long to wait before the next try, within the time it may take in all."""

    def __init__(self, retry_seconds: float, *, repeatable: bool = True) -> None:
        self._until = time.monotonic() + retry_seconds
        self._backoff_seconds = FIRST_RETRY_SECONDS
        # Of no answer within the time, because asking again would cost the service the same again.
        self._final: tuple[type[httpx.TransportError], ...] = (httpx.ReadTimeout, httpx.UnsupportedProtocol)
        if not repeatable:  # whatever came after a connection was there
            self._final += (httpx.NetworkError, httpx.ProtocolError, httpx.TimeoutException)
        self._before_sending = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

    def wait_seconds(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """None: this outcome is final, or the time is up."""
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                return None
            told = _retry_after_seconds(outcome)
        elif isinstance(outcome, self._final) and not isinstance(outcome, self._before_sending):
            return None
        else:
            told = None
        seconds = (self._backoff_seconds if told is None else told) * (1 + JITTER * random.random())  # noqa: S311 no secret
        self._backoff_seconds = min(2 * self._backoff_seconds, LONGEST_RETRY_SECONDS)
        return seconds if time.monotonic() + seconds < self._until else None


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """Seconds or a date: RFC 9110, section 10.2.3; None where there is neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date; one without a zone
        return None


def _read(picture: Picture, number: int) -> Upload:
    if isinstance(picture, bytes):
        return Upload(f"{number}", picture)
    if isinstance(picture, str | Path):
        path = Path(picture)
        return Upload(_sendable(path.name), path.read_bytes())
    name = getattr(picture, "name", None)
    return Upload(_sendable(Path(name).name) if isinstance(name, str) else f"{number}", picture.read())


def _sendable(name: str) -> str:
    """A file's name need not be Unicode, a header's must."""
    return name.encode("utf-8", "replace").decode() or "picture"


def batches(pictures: Picture | Iterable[Picture]) -> Iterator[list[Upload]]:
    """Read the pictures as they are needed; one that is larger than a batch goes alone."""
    single = isinstance(pictures, str | Path | bytes) or hasattr(pictures, "read")
    several = cast("Iterable[Picture]", [pictures] if single else pictures)
    batch: list[Upload] = []
    num_bytes = 0
    for number, picture in enumerate(several):
        upload = _read(picture, number)
        if batch and (len(batch) == MAX_BATCH_IMAGES or num_bytes + len(upload.content) > MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(upload)
        num_bytes += len(upload.content)
    if batch:
        yield batch


def http_options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": base_url, "headers": headers, "timeout": timeout_seconds}
