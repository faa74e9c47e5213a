"""The unmodified `huggingface_hub.InferenceClient`."""

from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.conftest import PICTURES_FOLDER


@pytest.fixture(scope="module")
def client(url: str) -> InferenceClient:
    return InferenceClient(model=f"{url}/image-classification")


@pytest.mark.parametrize("as_path", [True, False])
def test_five_classes_are_named(client: InferenceClient, bag: bytes, as_path: bool) -> None:
    found = client.image_classification(PICTURES_FOLDER / "bag.png" if as_path else bag)

    assert len(found) == 5
    assert found[0].label == "Bag"
    assert 0.9 < found[0].score <= 1


def test_parameters_are_followed(url: str, bag: bytes) -> None:
    client = InferenceClient(model=f"{url}/image-classification?model=fashion-mnist")

    found = client.image_classification(bag, top_k=2, function_to_apply="softmax")

    assert found[0].label == "Bag"
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "not an image of an accepted format"), ({"function_to_apply": "sigmoid"}, "function_to_apply")],
)
def test_errors_are_understood(client: InferenceClient, options: dict[str, str], reason: str) -> None:
    with pytest.raises(HfHubHTTPError, match=reason):
        client.image_classification(b"no image", **options)


def test_an_unknown_model_is_told(url: str, tmp_path: Path) -> None:
    client = InferenceClient(model=f"{url}/image-classification?model=tents")

    with pytest.raises(HfHubHTTPError, match="no model tents"):
        client.image_classification(b"no image")
