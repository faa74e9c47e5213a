"""/items as files: to keep, to move, for a spreadsheet."""

import asyncio
from datetime import UTC, datetime
from typing import IO, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from app.api import problems
from app.api.access import OWN_PAGES_ONLY
from app.api.dependencies import FilterDependency, SettingsDependency, WardrobeDependency
from app.api.item_schemas import FailedImport, ImportResponse, KeptPrediction
from app.errors import BodyTimeoutError, BodyTooLargeError
from app.settings import Settings
from app.store.transfer import export_csv, export_zip, import_zip
from app.store.wardrobe import Wardrobe

SPOOL_PIECE_BYTES = 2**20
IMPORT_OVERHEAD_BYTES = 64 * 2**20  # of names and lines, beside the pictures; chosen, not tuned

router = APIRouter(
    prefix="/items",
    tags=["items"],
    dependencies=OWN_PAGES_ONLY,
    responses=problems.responses(400, 403, 409, 422, 503),
)


@router.get(
    "/export.csv",
    operation_id="export_csv",
    summary="Items as a table for people",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def get_csv(wardrobe: WardrobeDependency, chosen: FilterDependency) -> StreamingResponse:
    wardrobe.open()
    return StreamingResponse(
        export_csv(wardrobe.walk(chosen)), media_type="text/csv; charset=utf-8", headers=_attachment("csv")
    )


@router.get(
    "/export.zip",
    operation_id="export_zip",
    summary="Items with their pictures, to keep or to move",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}}},
)
def get_zip(wardrobe: WardrobeDependency, chosen: FilterDependency) -> StreamingResponse:
    wardrobe.open()
    return StreamingResponse(export_zip(wardrobe, chosen), media_type="application/zip", headers=_attachment("zip"))


@router.post(
    "/import",
    operation_id="import_items",
    summary="Take over an exported wardrobe",
    responses=problems.responses(408, 413, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_items(request: Request, settings: SettingsDependency, wardrobe: WardrobeDependency) -> ImportResponse:
    """Send the file of /items/export.zip.

    Items and corrections that are not here are added and nothing is removed; of an item's corrections the latest
    counts. Twice is the same as once.
    """
    file = await asyncio.to_thread(wardrobe.spool)
    with file:
        await _read_into(file, request, settings, wardrobe)
        imported = await asyncio.to_thread(
            import_zip,
            wardrobe,
            file,
            parse_prediction=_parse_prediction,
            max_picture_bytes=settings.max_upload_bytes,
        )
    return ImportResponse(
        added=imported.outcomes["added"],
        merged=imported.outcomes["merged"],
        unchanged=imported.outcomes["unchanged"],
        failed=[FailedImport(name=name, error=problems.describe(error, request)) for name, error in imported.failed],
    )


def _parse_prediction(prediction: dict[str, Any]) -> dict[str, Any]:
    return KeptPrediction.model_validate(prediction).model_dump(mode="json")


def _attachment(suffix: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="wardrobe-{datetime.now(UTC):%Y-%m-%d}.{suffix}"'}


async def _read_into(file: IO[bytes], request: Request, settings: Settings, wardrobe: Wardrobe) -> None:
    """Stream the body to disk; it may take as long as it likes if it goes on arriving."""
    max_bytes = settings.max_stored_bytes + IMPORT_OVERHEAD_BYTES
    num_bytes, pieces = 0, bytearray()
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(settings.body_timeout_seconds):
                piece = await anext(stream, None)
            num_bytes += len(piece or b"")
            if num_bytes > max_bytes:
                raise BodyTooLargeError(max_bytes, num_bytes)
            pieces += piece or b""
            if piece is None or len(pieces) >= SPOOL_PIECE_BYTES:
                await asyncio.to_thread(wardrobe.write_to_spool, file, bytes(pieces))
                pieces.clear()
            if piece is None:
                return
    except TimeoutError as error:
        raise BodyTimeoutError(settings.body_timeout_seconds) from error
