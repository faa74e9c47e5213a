"""The unmodified `tritonclient[http]`, with its gevent and its asyncio client."""

import base64
from collections.abc import AsyncGenerator, Generator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

MODEL = "fashion-mnist"


@pytest.fixture(scope="module")
def client(url: str) -> Generator[triton.InferenceServerClient, None, None]:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture
async def aio_client(url: str) -> AsyncGenerator[triton_aio.InferenceServerClient, None]:
    async with triton_aio.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def images(*contents: bytes | str, shape: tuple[int, ...] | None = None, **options: bool) -> list[triton.InferInput]:
    array = np.array(contents, dtype=np.object_).reshape(shape or (len(contents), 1))
    tensor = triton.InferInput("image", list(array.shape), "BYTES")
    return [tensor.set_data_from_numpy(array, **options)]


def test_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "9")
    assert not client.is_model_ready("tents")


def test_descriptions(client: triton.InferenceServerClient) -> None:
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata(MODEL)["platform"] == "pytorch_torchscript"
    assert client.get_model_metadata(MODEL, "1")["versions"] == ["1"]
    assert client.get_model_config(MODEL)["max_batch_size"] == 128
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()


def test_statistics(client: triton.InferenceServerClient, bag: bytes) -> None:
    (before,) = client.get_inference_statistics(MODEL)["model_stats"]

    client.infer(MODEL, images(bag, bag))

    (after,) = client.get_inference_statistics(MODEL)["model_stats"]
    assert after["inference_count"] == before["inference_count"] + 2


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_images_in_binary(client: triton.InferenceServerClient, bag: bytes, shape: tuple[int, ...]) -> None:
    result = client.infer(MODEL, images(bag, bag, shape=shape), request_id="7")

    assert result.get_response()["id"] == "7"
    assert result.as_numpy("label").tolist() == [[b"Bag"], [b"Bag"]]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (2, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_images_in_json(client: triton.InferenceServerClient, bag: bytes) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in ("label", "probabilities")]

    result = client.infer(MODEL, images(base64.b64encode(bag).decode(), binary_data=False), outputs=outputs)

    assert result.as_numpy("label").tolist() == [["Bag"]]
    in_binary = client.infer(MODEL, images(bag)).as_numpy("probabilities")
    np.testing.assert_allclose(result.as_numpy("probabilities"), in_binary, atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_what_the_network_takes(client: triton.InferenceServerClient, binary: bool) -> None:
    tensor = triton.InferInput("prepared", [3, 1, 28, 28], "FP32")
    tensor.set_data_from_numpy(np.zeros((3, 1, 28, 28), np.float32), binary_data=binary)

    result = client.infer(MODEL, [tensor])

    assert result.as_numpy("probabilities").shape == (3, 10)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: triton.InferenceServerClient, bag: bytes, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)]

    ((first, *others),) = client.infer(MODEL, images(bag), outputs=outputs).as_numpy("probabilities")

    value, index, label = (first.decode() if binary else first).split(":")
    assert (index, label, len(others)) == ("8", "Bag", 2)
    assert 0.9 < float(value) <= 1


def test_several_at_a_time(url: str, bag: bytes) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4)

    requests = [client.async_infer(MODEL, images(bag)) for _ in range(8)]

    assert {request.get_result().as_numpy("label").item() for request in requests} == {b"Bag"}
    client.close()


async def test_asyncio(aio_client: triton_aio.InferenceServerClient, bag: bytes) -> None:
    assert await aio_client.is_server_live()
    assert await aio_client.is_server_ready()
    assert await aio_client.is_model_ready(MODEL)
    assert (await aio_client.get_model_metadata(MODEL))["name"] == MODEL
    assert (await aio_client.get_model_config(MODEL))["name"] == MODEL

    result = await aio_client.infer(MODEL, images(bag))

    assert result.as_numpy("label").item() == b"Bag"


REFUSED: list[tuple[Any, str, str]] = [
    (lambda client: client.get_model_metadata("tents"), "404", "no model tents"),
    (lambda client: client.infer("tents", images(b"a")), "404", "no model tents"),
    (lambda client: client.infer(MODEL, images(b"a"), model_version="9"), "404", "There is: fashion-mnist/1"),
    (lambda client: client.infer(MODEL, images(b"a")), "415", "not an image of an accepted format"),
    (lambda client: client.infer(MODEL, images(b"")), "422", "empty"),
    (lambda client: client.infer(MODEL, images(*[b"a"] * 129)), "413", "at most 128"),
    (lambda client: client.load_model(MODEL), "403", "model folder"),
    (lambda client: client.unload_model(MODEL), "403", "model folder"),
    (lambda client: client.get_trace_settings(), "404", "/v2/trace/setting"),
]


@pytest.mark.parametrize(("ask", "status", "text"), REFUSED)
def test_errors_are_understood(client: triton.InferenceServerClient, ask: Any, status: str, text: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(client)

    assert caught.value.status() == status
    assert text in caught.value.message()


def test_lengths_that_lie_are_understood(client: triton.InferenceServerClient, bag: bytes) -> None:
    (tensor,) = images(bag)
    tensor._raw_data = tensor._raw_data[:-1]

    with pytest.raises(InferenceServerException, match="bytes follow the JSON"):
        client.infer(MODEL, [tensor])


async def test_errors_are_understood_with_asyncio(aio_client: triton_aio.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no model tents"):
        await aio_client.infer("tents", images(b"a"))
