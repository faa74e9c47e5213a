"""The Open Inference Protocol's tensors: every length is checked, and what is written reads back."""

import base64
import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import open_inference_tensors as tensors
from app.api.open_inference_tensors import InferRequest, Tensor, TensorSpec, read_request, write_response
from app.errors import InvalidInferRequestError, RequestError, TooManyImagesError

SPECS = [TensorSpec("image", "BYTES", (1,)), TensorSpec("prepared", "FP32", (1, 2, 2))]
MAX_BATCH = 4


def read(body: bytes, header_length: str | None = None) -> tuple[InferRequest, Tensor]:
    return read_request(body, header_length, specs=SPECS, max_batch=MAX_BATCH)


def request(name: str = "image", shape: Any = (1, 1), datatype: str = "BYTES", **rest: Any) -> bytes:
    return json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": datatype, **rest}]}).encode()


def binary(content: bytes, *, size: int | None = None, **tensor: Any) -> tuple[bytes, str]:
    """Body and header length of a request with this tensor behind the JSON."""
    head = request(parameters={"binary_data_size": len(content) if size is None else size}, **tensor)
    return head + content, str(len(head))


def elements(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_images_in_binary(shape: tuple[int, ...]) -> None:
    _, tensor = read(*binary(elements(b"one", b""), shape=shape))

    assert tensor == Tensor("image", "BYTES", shape, [b"one", b""])


@pytest.mark.parametrize("nested", [False, True])
def test_images_in_json(nested: bool) -> None:
    texts = [base64.b64encode(content).decode() for content in (b"one", b"\xff\x00")]

    _, tensor = read(request(shape=(2, 1), data=[[text] for text in texts] if nested else texts))

    assert tensor.data == [b"one", b"\xff\x00"]


def test_a_body_that_is_one_image() -> None:
    asked, tensor = read(b"any bytes", "0")

    assert tensor == Tensor("image", "BYTES", (1, 1), [b"any bytes"])
    assert asked.parameters.binary_data_output


@pytest.mark.parametrize("in_json", [False, True])
def test_numbers_are_those_that_were_sent(in_json: bool) -> None:
    numbers = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2) / 3
    tensor = {"name": "prepared", "shape": numbers.shape, "datatype": "FP32"}

    body = (request(**tensor, data=numbers.tolist()), None) if in_json else binary(numbers.tobytes(), **tensor)
    _, found = read(*body)

    assert isinstance(found.data, np.ndarray)
    np.testing.assert_array_equal(found.data.reshape(found.shape), numbers)


def test_what_the_protocol_may_add_is_ignored() -> None:
    body = json.loads(request(data=["YQ=="], parameters={"content_type": "image"}, more=1))

    asked, tensor = read(json.dumps(body | {"id": "7", "parameters": {"priority": 3}, "more": {}}).encode())

    assert (asked.id, tensor.data) == ("7", [b"a"])


FP32 = {"name": "prepared", "shape": (1, 1, 2, 2), "datatype": "FP32"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ((request(data=["YQ=="]), "9999"), "Inference-Header-Content-Length is '9999'"),
        ((request(data=["YQ=="]), "-1"), "Inference-Header-Content-Length is '-1'"),
        ((request(data=["YQ=="]), "1_0"), "Inference-Header-Content-Length is '1_0'"),
        ((request(data=["YQ=="]), "9" * 5000), "Inference-Header-Content-Length is '999"),
        ((request(data=["YQ=="]), "5"), "JSON cannot be read"),
        ((b"", None), "JSON cannot be read"),
        ((b"[" * 100_000, None), "JSON cannot be read"),
        ((b"\xff", None), "JSON cannot be read"),
        ((b"[]", None), "the body: "),
        ((b'{"inputs": 1}', None), "inputs: "),
        ((b'{"inputs": []}', None), "it has 0 inputs"),
        ((request(name="picture", data=["YQ=="]), None), "no input 'picture', but image, prepared"),
        ((request(datatype="UINT8", data=["YQ=="]), None), "is BYTES, not UINT8"),
        ((request(shape=(1, 2), data=["YQ==", "YQ=="]), None), "has the shape [batch, 1], not [1, 2]"),
        ((request(shape=(), data=["YQ=="]), None), "has the shape [batch, 1], not []"),
        ((request(shape=(0,), data=[]), None), "has no element"),
        ((request(shape=(-1,), data=["YQ=="]), None), "has no element"),
        ((request(shape=(2,), data=["YQ=="]), None), "has 1 elements, and its shape 2"),
        ((request(shape=(1,), data=["YQ"]), None), "not given as base64"),
        ((request(shape=(1,), data=[1]), None), "not given as base64"),
        ((request(shape=(2,), data=["YQ==", ["YQ=="]]), None), "not given as base64"),
        ((request(), None), "either data or binary_data_size"),
        ((request(data=["YQ=="], parameters={"binary_data_size": 0}), None), "either data or binary_data_size"),
        ((request(data=["YQ=="]) + b"more", str(len(request(data=["YQ=="])))), "4 bytes follow the JSON"),
        (binary(elements(b"abc"), size=6), "binary_data_size of 6, and 7 bytes"),
        (binary(elements(b"abc"), size=8), "binary_data_size of 8, and 7 bytes"),
        (binary(elements(b"abc")[:-1]), "are not 1 elements"),
        (binary(elements(b"abc") + b"\0"), "are not 1 elements"),
        (binary(elements(b"abc", b"d")), "are not 1 elements"),
        (binary(elements(b"abc"), shape=(2,)), "are not 2 elements"),
        (binary(b"\xff\xff\xff\xffabc"), "are not 1 elements"),
        (binary(b"\0\0\0", shape=(1,)), "are not 1 elements"),
        (binary(b"\0" * 15, **FP32), "takes 16 bytes, not 15"),
        (binary(struct.pack("<4f", 0, 0, 0, float("nan")), **FP32), "no finite numbers"),
        ((request(**FP32, data=[0, 0, 0, True]), None), "not all numbers"),
        ((request(**FP32, data=[0, 0, 0, "1"]), None), "not all numbers"),
        ((request(**FP32, data=[0, 0, 0, 1e300]), None), "no finite numbers"),
        ((request(**FP32, data=[0, 0, 0, 10**400]), None), "too large"),
    ],
)
def test_what_does_not_fit_is_told(body: tuple[bytes, str | None], reason: str) -> None:
    with pytest.raises(InvalidInferRequestError) as caught:
        read(*body)

    assert reason in str(caught.value)


def test_a_batch_over_the_limit_is_refused_before_it_is_read() -> None:
    read(*binary(elements(*[b"a"] * MAX_BATCH), shape=(MAX_BATCH, 1)))

    with pytest.raises(TooManyImagesError):
        read(request(shape=(MAX_BATCH + 1, 1)))


def test_json_of_too_many_values_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lists take twenty times the memory of their text."""
    monkeypatch.setattr(tensors, "MAX_JSON_VALUES", 100)

    with pytest.raises(InvalidInferRequestError, match="more than 100 values"):
        read(request(data=[[]] * 100))


@settings(max_examples=100, deadline=None)
@given(
    header_length=st.none() | st.integers(0, 200).map(str) | st.text(max_size=4),
    size=st.none() | st.integers(0, 40),
    lengths=st.lists(st.integers(0, 2**32 - 1), max_size=3),
    content=st.binary(max_size=20),
    num_images=st.integers(-1, 5),
)
def test_lengths_that_lie_are_errors_of_the_request(
    header_length: str | None, size: int | None, lengths: list[int], content: bytes, num_images: int
) -> None:
    """Whatever the lengths say: elements that are there, or an error with its reason."""
    behind = b"".join(struct.pack("<I", length) + content for length in lengths)
    body, right_length = binary(behind, size=size, shape=(num_images,))

    with contextlib.suppress(RequestError):
        _, tensor = read(body, right_length if header_length is None else header_length)

        assert len(tensor.data) == tensor.shape[0]
        assert all(element in body for element in tensor.data)


def test_an_answer_reads_back() -> None:
    numbers = Tensor("probabilities", "FP32", (1, 2), np.array([[0.25, 0.75]], np.float32))
    labels = Tensor("label", "BYTES", (1, 1), ["clé".encode()])

    body, num_json = write_response({"id": "7"}, [(numbers, True), (labels, False), (labels, True)])

    head = json.loads(body[:num_json])
    assert [output.get("data") for output in head["outputs"]] == [None, ["clé"], None]
    assert [output.get("parameters") for output in head["outputs"]] == [
        {"binary_data_size": 8},
        None,
        {"binary_data_size": 8},
    ]
    assert body[num_json:] == struct.pack("<2f", 0.25, 0.75) + elements("clé".encode())


def test_an_answer_without_binary_is_json_alone() -> None:
    numbers = Tensor("probabilities", "FP32", (1, 2), np.array([[0.25, 0.75]], np.float32))

    body, num_json = write_response({}, [(numbers, False)])

    assert num_json is None
    assert json.loads(body)["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}
    ]
