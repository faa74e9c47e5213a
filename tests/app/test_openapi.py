"""The API description: names that stay, a schema for every problem, and examples that are real answers."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.examples import IMAGE_CLASSIFICATION, INFER_ANSWER
from app.main import create_app
from app.settings import Settings

OPERATION_IDS = [
    "add_items",
    "change_item",
    "change_items",
    "delete_item",
    "delete_items",
    "export_csv",
    "export_zip",
    "get_explanation",
    "get_item",
    "get_model",
    "get_model_report",
    "get_model_version",
    "get_picture",
    "get_thumbnail",
    "health_live",
    "health_ready",
    "image_classification",
    "import_items",
    "list_items",
    "list_models",
    "metrics",
    "predict",
    "v2_all_statistics",
    "v2_config",
    "v2_infer",
    "v2_live",
    "v2_load",
    "v2_model",
    "v2_model_ready",
    "v2_ready",
    "v2_repository_index",
    "v2_server",
    "v2_statistics",
    "v2_unload",
]


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """With API keys, so that nothing is left out."""
    return create_app(Settings(api_key_sha256=("0" * 64,))).openapi()


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_operations_keep_their_names(description: dict[str, Any]) -> None:
    """Generated clients call them by these: add new ones here, and do not rename any."""
    assert set(OPERATION_IDS) <= {operation["operationId"] for _, operation in operations(description)}


def test_every_error_has_its_schema(description: dict[str, Any]) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    of_the_protocol = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    wrong = [
        (path, status, response.get("content"))
        for path, operation in operations(description)
        for status, response in operation["responses"].items()
        if status >= "400" and response.get("content") != (of_the_protocol if path.startswith("/v2") else problem)
    ]

    assert wrong == []


async def test_the_examples_are_real_answers(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    image = base64.b64encode(pictures["Bag"]).decode()
    outputs = [{"name": name} for name in ("label", "decision")]
    outputs.append({"name": "probabilities", "parameters": {"classification": 2}})
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [image]}

    task = await client.post("/image-classification", json={"inputs": image, "parameters": {"top_k": 2}})
    inferred = await client.post(
        "/v2/models/fashion-mnist/infer", json={"id": "42", "inputs": [tensor], "outputs": outputs}
    )

    assert [found["label"] for found in task.json()] == [found["label"] for found in IMAGE_CLASSIFICATION]
    assert [found["score"] for found in task.json()] == pytest.approx(
        [it["score"] for it in IMAGE_CLASSIFICATION], abs=1e-4
    )
    *found, (best, *_) = [output["data"] for output in inferred.json()["outputs"]]
    *expected, (example, *_) = [output["data"] for output in INFER_ANSWER["outputs"]]
    assert found == expected
    assert best.split(":")[1:] == example.split(":")[1:]
    assert set(inferred.json()) == set(INFER_ANSWER)
