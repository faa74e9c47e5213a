"""What clients of TorchServe's inference API ask, for those who come from there: it is no longer maintained.

https://docs.pytorch.org/serve/inference_api.html, with the answers of its default `image_classifier`.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.body import read_uploads
from app.api.dependencies import PredictorDependency, SettingsDependency, StoreDependency
from app.api.models import NameParameter
from app.api.open_inference import VersionDependency
from app.api.predict import classify_one
from app.errors import NotReadyError, TooManyImagesError

router = APIRouter(include_in_schema=False)  # who writes a client today asks /predict

TOP_K = 5  # of `image_classifier`
FIELDS = ("data", "body", "file")  # the first two are those that its handlers look at


@router.api_route("/ping", methods=["GET", "OPTIONS"])
async def ping(store: StoreDependency) -> Response:
    try:
        store.require_ready()
    except NotReadyError as error:
        return JSONResponse({"status": "Unhealthy"}, 503, headers={"Retry-After": str(error.retry_after_seconds)})
    return JSONResponse({"status": "Healthy"})


@router.api_route("/predictions/{name}", methods=["POST", "PUT"])  # `curl -T` puts
@router.api_route("/predictions/{name}/{version:int}", methods=["POST", "PUT"])
async def predictions(
    request: Request,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    name: NameParameter,
    version: VersionDependency,
) -> dict[str, float]:
    """The five best classes of one image and their probabilities."""
    choose = store.chooser(name, version)
    predictor.require_room()
    uploads = await read_uploads(request, settings, FIELDS)
    if len(uploads) > 1:
        raise TooManyImagesError(1)
    prediction = await classify_one(request, predictor, uploads[0].content, choose=choose, top_k=TOP_K)
    return {candidate.info.label: candidate.probability for candidate in prediction.candidates}
