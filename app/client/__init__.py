"""Ask a running service from Python, blocking or with asyncio.

    with WardrobeClient("http://127.0.0.1:8000") as client:
        for answer in client.predict(["boot.jpg", Path("bag.heic"), open("coat.png", "rb")]):
            ...
        for item in client.items(drawers=["tops"]):
            ...

Answers are the service's own models (`app.api.schemas`, `app.api.item_schemas`), one for each picture or item in the
order given; what is wrong with one of them stands in its place. Any number will do: they travel in batches. While the
service is busy, not ready or out of reach, the client waits as it is told to and asks again.
"""

from app.client.asynchronous import AsyncWardrobeClient
from app.client.blocking import WardrobeClient
from app.client.calls import IMAGE_PROBLEMS, Answer, ItemReference, Picture
from app.client.errors import (
    BusyError,
    ClientError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    NotReadyError,
    ProblemError,
    ServiceFailedError,
    TooLargeError,
    UnexpectedAnswerError,
    UnreachableError,
)

__all__ = [
    "IMAGE_PROBLEMS",
    "Answer",
    "AsyncWardrobeClient",
    "BusyError",
    "ClientError",
    "InvalidRequestError",
    "ItemReference",
    "KeyRefusedError",
    "NotFoundError",
    "NotReadyError",
    "Picture",
    "ProblemError",
    "ServiceFailedError",
    "TooLargeError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "WardrobeClient",
]
