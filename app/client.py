"""Ask a running service from Python, blocking or with asyncio.

    with WardrobeClient("http://127.0.0.1:8000") as client:
        for answer in client.predict(["boot.jpg", Path("bag.heic"), open("coat.png", "rb")]):
            ...

Answers are the service's own models (`app.api.schemas`), one for each picture in the order given; a picture that
cannot be classified has a FailedImagePublic in its place. Any number of pictures will do: they travel in batches. While
the service is busy, not ready or out of reach, the client waits as it is told to and asks again.

ClientError
├── UnreachableError       no answer: nothing listens there, or the connection broke each time
├── UnexpectedAnswerError  something else than this service answered
└── ProblemError           the service said no; its problem document is in `problem`, its words are the text
    ├── KeyRefusedError        401
    ├── NotFoundError          404
    ├── TooLargeError          413
    ├── BusyError              429, and stayed so
    ├── NotReadyError          503, and stayed so
    ├── ServiceFailedError     other 5xx
    └── InvalidRequestError    other 4xx
"""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

import httpx
from pydantic import BaseModel, ValidationError

from app.api.schemas import FailedImagePublic, ModelsResponse, PredictionPublic, PredictResponse, Problem
from app.errors import WardrobeError

Picture = str | Path | bytes | BinaryIO
Answer = PredictionPublic | FailedImagePublic
Model = TypeVar("Model", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:8000"
# Chosen, not tuned: they fill the workers of a service and stay far below its default limits. A service with lower
# ones says so, and the batch is halved.
MAX_BATCH_IMAGES, MAX_BATCH_BYTES = 32, 16 * 2**20
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 5.0  # where the service does not say; doubles each time
JITTER = 0.25  # of a wait: clients that were turned away together do not come back together

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


class ClientError(WardrobeError):
    """Base of everything that the client raises for an answer it did not get."""


class UnreachableError(ClientError):
    def __init__(self, url: str, cause: Exception) -> None:
        reason = str(cause).rstrip(".") or type(cause).__name__
        super().__init__(f"The service at {url} cannot be reached: {reason}.")


class UnexpectedAnswerError(ClientError):
    def __init__(self, response: httpx.Response) -> None:
        super().__init__(
            f"{response.url} answered {response.status_code} with something that is not of this service. Is the "
            "address right?"
        )


class ProblemError(ClientError):
    """The service's own words; `problem` has the rest, with the limit that was passed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class KeyRefusedError(ProblemError):
    pass


class NotFoundError(ProblemError):
    pass


class TooLargeError(ProblemError):
    pass


class BusyError(ProblemError):
    pass


class NotReadyError(ProblemError):
    pass


class ServiceFailedError(ProblemError):
    pass


class InvalidRequestError(ProblemError):
    pass


_BY_STATUS: dict[int, type[ProblemError]] = {
    401: KeyRefusedError,
    404: NotFoundError,
    413: TooLargeError,
    429: BusyError,
    503: NotReadyError,
}


@dataclass(frozen=True, slots=True)
class _Upload:
    filename: str
    content: bytes


class _Patience:
    """Says of one request how long to wait before the next try, within the time it may take in all."""

    def __init__(self, retry_seconds: float) -> None:
        self._until = time.monotonic() + retry_seconds
        self._backoff_seconds = FIRST_RETRY_SECONDS

    def wait_seconds(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """None: this outcome is final, or the time is up."""
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                return None
            told = _retry_after_seconds(outcome)
        elif isinstance(outcome, httpx.ReadTimeout | httpx.UnsupportedProtocol):  # asking again would cost it again
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


def _read(picture: Picture, number: int) -> _Upload:
    if isinstance(picture, bytes):
        return _Upload(f"{number}", picture)
    if isinstance(picture, str | Path):
        path = Path(picture)
        return _Upload(_sendable(path.name), path.read_bytes())
    name = getattr(picture, "name", None)
    return _Upload(_sendable(Path(name).name) if isinstance(name, str) else f"{number}", picture.read())


def _sendable(name: str) -> str:
    """A file's name need not be Unicode, a header's must."""
    return name.encode("utf-8", "replace").decode() or "picture"


def _batches(pictures: Picture | Iterable[Picture]) -> Iterator[list[_Upload]]:
    """Read the pictures as they are needed; one that is larger than a batch goes alone."""
    single = isinstance(pictures, str | Path | bytes) or hasattr(pictures, "read")
    several = cast("Iterable[Picture]", [pictures] if single else pictures)
    batch: list[_Upload] = []
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


def _parts(batch: list[_Upload]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (upload.filename, upload.content)) for upload in batch]


def _answers(response: httpx.Response, batch: list[_Upload]) -> list[Answer]:
    """One for each picture, also where none could be read and the whole answer is a problem.

    Raises:
        ProblemError: of the request and not of a picture.
    """
    if response.is_success:
        return list(_parsed(PredictResponse, response).predictions)
    problem = _problem(response)
    if errors := getattr(problem, "errors", None):
        found = [{"filename": error["filename"], "error": error["error"]} for error in errors]
        return list(PredictResponse.model_validate({"predictions": found}).predictions)
    if len(batch) == 1 and problem.type.rpartition(":")[2] in IMAGE_PROBLEMS:
        return [FailedImagePublic(filename=batch[0].filename, error=problem)]
    raise _error(problem)


def _checked(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise _error(_problem(response))
    try:
        found: dict[str, Any] = response.json()
    except ValueError as error:
        raise UnexpectedAnswerError(response) from error
    return found


def _parsed(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate(_checked(response), extra="ignore")  # a newer service may say more
    except ValidationError as error:
        raise UnexpectedAnswerError(response) from error


def _problem(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError as error:
        raise UnexpectedAnswerError(response) from error


def _error(problem: Problem) -> ProblemError:
    other = ServiceFailedError if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidRequestError
    return _BY_STATUS.get(problem.status, other)(problem)


def _options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": base_url, "headers": headers, "timeout": timeout_seconds}


class WardrobeClient(AbstractContextManager["WardrobeClient"]):
    """Blocks until the answer is there."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float = 120.0,
    ) -> None:
        """Open no connection yet.

        `timeout_seconds` is the longest silence on the line, `retry_seconds` the longest time for one request in all,
        with the waiting while the service is busy, starting or out of reach.
        """
        self._http = httpx.Client(**_options(base_url, api_key, timeout_seconds))
        self._retry_seconds = retry_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(self, pictures: Picture | Iterable[Picture], *, model: str = "auto", top_k: int = 3) -> list[Answer]:
        """Classify paths, bytes or open files, one or many.

        Raises:
            OSError: a file cannot be read.
            ClientError: there is no answer; what is wrong with one picture stands in its place instead.
        """
        return [answer for batch in _batches(pictures) for answer in self._predict(batch, model, top_k)]

    def models(self) -> ModelsResponse:
        """Which models there are, and which are served."""
        return _parsed(ModelsResponse, self._request("GET", "/models"))

    def card(self, name: str) -> dict[str, Any]:
        """The card of the served version as JSON, which is a `ServedCard` less its golden predictions."""
        return _checked(self._request("GET", f"/models/{name}"))

    def _predict(self, batch: list[_Upload], model: str, top_k: int) -> list[Answer]:
        response = self._request("POST", "/predict", params={"model": model, "top_k": top_k}, files=_parts(batch))
        try:
            return _answers(response, batch)
        except TooLargeError:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        return self._predict(batch[:half], model, top_k) + self._predict(batch[half:], model, top_k)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        patience = _Patience(self._retry_seconds)
        while True:
            try:
                response = self._http.request(method, path, **options)
                if (seconds := patience.wait_seconds(response)) is None:
                    return response
            except httpx.TransportError as error:
                if (seconds := patience.wait_seconds(error)) is None:
                    raise UnreachableError(str(self._http.base_url), error) from error
            time.sleep(seconds)


class AsyncWardrobeClient(AbstractAsyncContextManager["AsyncWardrobeClient"]):
    """The same for asyncio; any number of calls may run at a time."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float = 120.0,
    ) -> None:
        """As WardrobeClient."""
        self._http = httpx.AsyncClient(**_options(base_url, api_key, timeout_seconds))
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
        """As WardrobeClient.predict; files are read in another thread."""
        answers: list[Answer] = []
        batches = _batches(pictures)
        while batch := await asyncio.to_thread(next, batches, None):
            answers += await self._predict(batch, model, top_k)
        return answers

    async def models(self) -> ModelsResponse:
        """Which models there are, and which are served."""
        return _parsed(ModelsResponse, await self._request("GET", "/models"))

    async def card(self, name: str) -> dict[str, Any]:
        """The card of the served version as JSON, which is a `ServedCard` less its golden predictions."""
        return _checked(await self._request("GET", f"/models/{name}"))

    async def _predict(self, batch: list[_Upload], model: str, top_k: int) -> list[Answer]:
        parameters = {"model": model, "top_k": top_k}
        response = await self._request("POST", "/predict", params=parameters, files=_parts(batch))
        try:
            return _answers(response, batch)
        except TooLargeError:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        return await self._predict(batch[:half], model, top_k) + await self._predict(batch[half:], model, top_k)

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        patience = _Patience(self._retry_seconds)
        while True:
            try:
                response = await self._http.request(method, path, **options)
                if (seconds := patience.wait_seconds(response)) is None:
                    return response
            except httpx.TransportError as error:
                if (seconds := patience.wait_seconds(error)) is None:
                    raise UnreachableError(str(self._http.base_url), error) from error
            await asyncio.sleep(seconds)
