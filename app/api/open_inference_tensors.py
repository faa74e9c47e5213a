"""How the Open Inference Protocol writes tensors: in JSON, as bytes behind it, or as a body that is one tensor alone.

https://github.com/kserve/open-inference-protocol, with Triton's extensions binary_tensor_data and classification. Pure:
bytes in, bytes out.
"""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import InvalidInferRequestError, TooManyImagesError

HEADER_LENGTH = "Inference-Header-Content-Length"
Datatype = Literal["BYTES", "FP32"]
_Schema = TypeVar("_Schema", bound=BaseModel)

# Chosen, not tuned: thirteen pictures of the largest network input as numbers. A list of nothing is 3 bytes of JSON and
# some 60 of memory; what has more numbers than this is smaller and quicker in binary.
MAX_JSON_VALUES = 2_000_000
_LENGTH_BYTES = 4  # of an element of BYTES, little-endian, before it


class _Read(BaseModel):
    """What a client sends: unknown members are ignored, as the protocol asks."""

    model_config = ConfigDict(strict=True)


class InputParameters(_Read):
    binary_data_size: int | None = Field(None, ge=0, description="Bytes of this tensor behind the JSON.")


class InputTensor(_Read):
    name: str = Field(examples=["image"])
    shape: list[int] = Field(examples=[[1, 1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="Nested or flat, row by row; a picture as base64 of its file.")


class OutputParameters(_Read):
    binary_data: bool | None = Field(None, description="Whether to send it as bytes behind the JSON.")
    classification: int = Field(0, ge=0, description="Send the best classes as `value:index:label` instead.")
    shared_memory_region: str | None = None


class RequestedOutput(_Read):
    name: str = Field(examples=["probabilities"])
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Read):
    binary_data_output: bool = Field(False, description="`binary_data` of outputs that do not say it themselves.")


class InferRequest(_Read):
    """The JSON of an inference request."""

    id: str | None = Field(None, description="Comes back in the answer.", examples=["42"])
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="By default all of the model's.")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives; `dims` are those of one picture, without the batch, which comes first."""

    name: str
    datatype: Datatype
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` has the elements row by row: bytes of BYTES, float32 of FP32."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: Sequence[bytes] | np.ndarray


def read_request(
    body: bytes, header_length: str | None, *, specs: Sequence[TensorSpec], max_batch: int
) -> tuple[InferRequest, Tensor]:
    """The request and its one input.

    `specs` are the inputs that the model takes, one of them at a time; a body without JSON is an element of the first.

    Raises:
        InvalidInferRequestError: it does not follow the protocol, or fits none of the specs.
        TooManyImagesError: the batch is larger than `max_batch`.
    """
    num_json = _num_json_bytes(body, header_length)
    if num_json == 0 and header_length is not None:
        request = InferRequest(inputs=[], parameters=RequestParameters(binary_data_output=True))
        return request, Tensor(specs[0].name, specs[0].datatype, (1, 1), [body])
    request = parse_json(body[:num_json], InferRequest)
    if len(request.inputs) != 1:
        names = " or ".join(repr(spec.name) for spec in specs)
        raise InvalidInferRequestError(f"it has {len(request.inputs)} inputs, and the model takes one: {names}")
    (sent,) = request.inputs
    spec = next((spec for spec in specs if spec.name == sent.name), None)
    if spec is None:
        known = ", ".join(spec.name for spec in specs)
        raise InvalidInferRequestError(f"the model has no input {sent.name!r}, but {known}")
    if sent.datatype != spec.datatype:
        raise InvalidInferRequestError(f"input {spec.name!r} is {spec.datatype}, not {sent.datatype}")
    shape = tuple(sent.shape)
    if shape[1:] != spec.dims and not (len(shape) == 1 and spec.dims == (1,)):
        wanted = ", ".join(map(str, ("batch", *spec.dims)))
        raise InvalidInferRequestError(f"input {spec.name!r} has the shape [{wanted}], not {list(shape)}")
    if shape[0] < 1:
        raise InvalidInferRequestError(f"input {spec.name!r} has no element")
    if shape[0] > max_batch:
        raise TooManyImagesError(max_batch)
    return request, Tensor(spec.name, spec.datatype, shape, _elements(sent, spec, math.prod(shape), body[num_json:]))


def write_response(head: dict[str, Any], outputs: Sequence[tuple[Tensor, bool]]) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where something comes behind it; a tensor with True goes there."""
    described: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for tensor, binary in outputs:
        described.append({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape})
        if binary:
            behind.append(_to_bytes(tensor))
            described[-1]["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            described[-1]["data"] = _to_json(tensor)
    text = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return b"".join([text, *behind]), len(text) if behind else None


def _num_json_bytes(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    # isdecimal() alone takes other scripts' digits, and int() spaces and underscores.
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:20]) > len(body):
        raise InvalidInferRequestError(f"{HEADER_LENGTH} is {header_length[:20]!r}, and the body has {len(body)} bytes")
    return int(header_length)


def parse_json(text: bytes, schema: type[_Schema]) -> _Schema:
    """What a JSON body says.

    Raises:
        InvalidInferRequestError: it is no JSON, or not as the schema says.
    """
    num_values = text.count(b",") + text.count(b"[") + text.count(b"{")  # or fewer: some may stand in strings
    if num_values > MAX_JSON_VALUES:
        raise InvalidInferRequestError(f"its JSON has more than {MAX_JSON_VALUES} values; send them in binary")
    try:
        return schema.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise InvalidInferRequestError(f"{place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or lists in lists in lists
        raise InvalidInferRequestError(f"its JSON cannot be read ({error})") from error


def decode_base64(text: str) -> bytes:
    """The bytes that a string of JSON stands for.

    Raises:
        InvalidInferRequestError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInferRequestError(f"an image is not given as base64 ({error})") from error


def _elements(sent: InputTensor, spec: TensorSpec, count: int, behind: bytes) -> Sequence[bytes] | np.ndarray:
    num_bytes = sent.parameters.binary_data_size
    if (num_bytes is None) == (sent.data is None):
        raise InvalidInferRequestError(f"input {spec.name!r} needs either data or binary_data_size")
    if num_bytes is None:
        if behind:
            raise InvalidInferRequestError(f"{len(behind)} bytes follow the JSON, which no input claims")
        return _from_json(sent.data or [], spec, count)
    if num_bytes != len(behind):
        raise InvalidInferRequestError(
            f"input {spec.name!r} has a binary_data_size of {num_bytes}, and {len(behind)} bytes follow the JSON"
        )
    return _from_bytes(behind, spec, count)


def _from_bytes(content: bytes, spec: TensorSpec, count: int) -> Sequence[bytes] | np.ndarray:
    if spec.datatype == "FP32":
        if len(content) != 4 * count:
            raise InvalidInferRequestError(f"input {spec.name!r} takes {4 * count} bytes, not {len(content)}")
        return _finite(np.frombuffer(content, "<f4"), spec)
    elements: list[bytes] = []
    position = 0
    while position < len(content) and len(elements) < count:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(content[position:start], "little")
        elements.append(content[start:position])
    if position != len(content) or len(elements) != count:
        raise InvalidInferRequestError(
            f"the {len(content)} bytes of input {spec.name!r} are not {count} elements, each behind its length in "
            f"{_LENGTH_BYTES} bytes"
        )
    return elements


def _from_json(data: list[Any], spec: TensorSpec, count: int) -> Sequence[bytes] | np.ndarray:
    values = _flat(data)
    if len(values) != count:
        raise InvalidInferRequestError(f"input {spec.name!r} has {len(values)} elements, and its shape {count}")
    if spec.datatype == "FP32":
        if any(type(value) not in (int, float) for value in values):
            raise InvalidInferRequestError(f"the elements of input {spec.name!r} are not all numbers")
        try:
            with np.errstate(over="ignore"):  # it is infinity then
                return _finite(np.array(values, np.float32), spec)
        except OverflowError as error:  # an integer that no float holds
            raise InvalidInferRequestError(f"input {spec.name!r} has a number that is too large") from error
    return [decode_base64(value) for value in values]


def _flat(data: list[Any]) -> list[Any]:
    while data and all(isinstance(value, list) for value in data):
        data = list(chain.from_iterable(data))
    return data


def _finite(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InvalidInferRequestError(f"input {spec.name!r} has elements that are no finite numbers")
    return values


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype("<f4").tobytes()
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in tensor.data)


def _to_json(tensor: Tensor) -> list[Any]:
    if isinstance(tensor.data, np.ndarray):
        values: list[float] = tensor.data.ravel().tolist()
        return values
    return [element.decode() for element in tensor.data]
