"""What the client raises for an answer that it did not get, and how it is told from one.

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

from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from app.api.schemas import Problem
from app.errors import WardrobeError

Model = TypeVar("Model", bound=BaseModel)


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


def succeeded(response: httpx.Response) -> httpx.Response:
    """The answer, if it is one.

    Raises:
        ProblemError: the service said no.
    """
    if not response.is_success:
        raise error_of(problem_of(response))
    return response


def checked(response: httpx.Response) -> dict[str, Any]:
    try:
        found: dict[str, Any] = succeeded(response).json()
    except ValueError as error:
        raise UnexpectedAnswerError(response) from error
    return found


def parsed(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate(checked(response), extra="ignore")  # a newer service may say more
    except ValidationError as error:
        raise UnexpectedAnswerError(response) from error


def problem_of(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError as error:
        raise UnexpectedAnswerError(response) from error


def error_of(problem: Problem) -> ProblemError:
    other = ServiceFailedError if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidRequestError
    return _BY_STATUS.get(problem.status, other)(problem)
