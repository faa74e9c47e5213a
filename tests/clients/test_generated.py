"""The client that openapi-python-client writes from the API description: see tests/test_stock_clients.py."""

import io
from collections.abc import Generator
from http import HTTPStatus

import pytest
from wardrobe_client import Client
from wardrobe_client.api.items import add_items, change_item, delete_item, get_item, get_picture, list_items
from wardrobe_client.api.models import get_model, list_models
from wardrobe_client.api.open_inference_protocol import v2_model
from wardrobe_client.api.predict import image_classification, predict
from wardrobe_client.models import (
    AddItemsFilesBody,
    ErrorAnswer,
    ItemChange,
    ItemPublic,
    ModelsResponse,
    PredictFilesBody,
    PredictionPublic,
    PredictResponse,
    Problem,
    ServedCard,
)
from wardrobe_client.types import File


@pytest.fixture(scope="module")
def client(url: str) -> Generator[Client, None, None]:
    with Client(url, raise_on_unexpected_status=True) as client:
        yield client


def file(content: bytes, name: str | None = None) -> File:
    return File(payload=io.BytesIO(content), file_name=name, mime_type="image/png" if name else None)


@pytest.mark.parametrize("as_form", [True, False])
def test_a_picture_is_classified(client: Client, bag: bytes, as_form: bool) -> None:
    body = PredictFilesBody(file=[file(bag, "bag.png")]) if as_form else file(bag)

    answer = predict.sync(client=client, body=body, top_k=2)

    assert isinstance(answer, PredictResponse)
    (prediction,) = answer.predictions
    assert isinstance(prediction, PredictionPublic)
    assert (prediction.label, prediction.decision, len(prediction.top_k)) == ("Bag", "sorted", 2)
    assert prediction.filename == ("bag.png" if as_form else None)


def test_labels_and_scores(client: Client, bag: bytes) -> None:
    (best, *others) = image_classification.sync(client=client, body=file(bag))

    assert (best.label, len(others)) == ("Bag", 4)


def test_models_are_described(client: Client) -> None:
    models = list_models.sync(client=client)

    assert isinstance(models, ModelsResponse)
    assert [summary.name for summary in models.models] == ["fashion-mnist"]
    card = get_model.sync("fashion-mnist", client=client)
    assert isinstance(card, ServedCard)
    assert card.serving.engine == "onnxruntime"


def test_an_item_is_kept_corrected_and_removed(client: Client, bag: bytes) -> None:
    added = add_items.sync(client=client, body=AddItemsFilesBody(file=[file(bag, "bag.png")]))
    item_id = added.items[0].item.id
    page = list_items.sync(client=client)
    changed = change_item.sync(item_id, client=client, body=ItemChange(label="handbag", drawer="bags"))
    picture = get_picture.sync_detailed(item_id, client=client)
    removed = delete_item.sync_detailed(item_id, client=client)
    gone = get_item.sync_detailed(item_id, client=client)

    assert [item.id for item in page.items] == [item_id]
    assert isinstance(changed, ItemPublic)
    assert (changed.label, changed.corrected) == ("handbag", True)
    assert picture.content == bag
    assert removed.status_code in (HTTPStatus.OK, HTTPStatus.NO_CONTENT)
    assert gone.status_code == HTTPStatus.NOT_FOUND
    assert isinstance(gone.parsed, Problem)


def test_problems_are_typed(client: Client) -> None:
    unreadable = predict.sync(client=client, body=file(b"no image"))
    unknown = get_model.sync("tents", client=client)

    assert isinstance(unreadable, Problem)
    assert (unreadable.type_, unreadable.status) == ("urn:wardrobe:unsupported-image-format", 415)
    assert "JPEG" in unreadable.additional_properties["accepted"]
    assert isinstance(unknown, Problem)
    assert isinstance(v2_model.sync("tents", client=client), ErrorAnswer)
