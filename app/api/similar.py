"""What looks alike: nearest items, and pairs that may be one garment twice."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api import problems
from app.api.access import OWN_PAGES_ONLY
from app.api.body import read_uploads
from app.api.dependencies import (
    EmbedderDependency,
    PredictorDependency,
    SettingsDependency,
    StoreDependency,
    WardrobeDependency,
)
from app.api.item_schemas import ItemPublic, SimilarItem, SimilarItems, SimilarPicture, SimilarResponse
from app.api.items import IdParameter, public_item
from app.api.predict import REQUEST_BODY, all_failed, failed_image, tell_stages, while_connected
from app.errors import NoEmbeddingError, WardrobeError
from app.store.similar import Embedded
from app.store.tables import Item

router = APIRouter(
    tags=["items"],
    dependencies=OWN_PAGES_ONLY,
    responses=problems.responses(400, 403, 404, 409, 422, 429, 503),
)

LimitQuery = Annotated[int, Query(description="Most items to name.", ge=1, le=100)]


@router.post(
    "/similar",
    operation_id="find_similar",
    summary="Items that look like a picture",
    response_model=SimilarResponse,
    responses=problems.responses(408, 413, 415),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def find_similar(
    request: Request,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    wardrobe: WardrobeDependency,
    embedder: EmbedderDependency,
    limit: LimitQuery = 10,
) -> SimilarResponse | Response:
    """Send pictures as for /predict: for each the items most similar to it are named, and nothing is kept.

    The model is the one that `model=auto` takes for photos, whichever model classified the items.
    """
    await asyncio.to_thread(wardrobe.open)
    choose = store.chooser(settings.default_model)
    predictor.require_room()
    uploads = await read_uploads(request, settings)
    predicting = predictor.predict([upload.content for upload in uploads], choose=choose, top_k=1)
    outcomes = await while_connected(request, predicting)
    tell_stages(request, outcomes)
    failures = [outcome for outcome in outcomes if isinstance(outcome, WardrobeError)]
    if len(failures) == len(outcomes):
        return all_failed(request, uploads, failures)
    wanted = []
    for outcome in outcomes:
        if not isinstance(outcome, WardrobeError):
            if outcome.embedding is None:
                raise NoEmbeddingError(f"{outcome.artifact.card.name}/{outcome.artifact.card.version}")
            wanted.append(Embedded(outcome.artifact.digest, outcome.embedding))
    found = iter(await asyncio.to_thread(wardrobe.nearest, wanted, limit=limit))
    return SimilarResponse(
        pictures=[
            failed_image(request, upload, outcome)
            if isinstance(outcome, WardrobeError)
            else SimilarPicture(filename=upload.filename, items=_public(next(found)))
            for upload, outcome in zip(uploads, outcomes, strict=True)
        ],
        num_waiting=await embedder.num_waiting(),
    )


@router.get("/items/{item_id:sha256}/similar", operation_id="get_similar", summary="Items that look like this one")
async def get_similar(
    wardrobe: WardrobeDependency, embedder: EmbedderDependency, item_id: IdParameter, limit: LimitQuery = 10
) -> SimilarItems:
    """By the model that `model=auto` takes for photos, whichever model classified the items."""
    wanted = await embedder.embedded(item_id)
    (found,) = await asyncio.to_thread(wardrobe.nearest, [wanted], limit=limit + 1)
    others = [(similarity, item) for similarity, item in found if item.id != item_id]
    return SimilarItems(items=_public(others[:limit]), num_waiting=await embedder.num_waiting())


@router.delete(
    "/items/{item_id:sha256}/possible-duplicate",
    operation_id="keep_both",
    summary="Say that an item is no duplicate",
)
def keep_both(wardrobe: WardrobeDependency, item_id: IdParameter) -> ItemPublic:
    """Both are kept, and it is not asked again; to keep one, remove the other."""
    return public_item(wardrobe.keep_both(item_id))


def _public(found: list[tuple[float, Item]]) -> list[SimilarItem]:
    return [SimilarItem(similarity=similarity, item=public_item(item)) for similarity, item in found]
