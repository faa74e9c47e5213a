"""items.jsonl, what an exported wardrobe says of its pictures: the contract between the wardrobe and who reads exports.

GET /items/export.zip writes it, POST /items/import and `python -m training photos train --from-corrections` read it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.artifact import Drawer, Sha256

JSONL_NAME = "items.jsonl"
MAX_FILENAME_CHARACTERS = 255
# Any time but the first and the last day there are, which a time zone could push out of the calendar.
Time = Annotated[AwareDatetime, Field(ge=datetime(1, 1, 2, tzinfo=UTC), lt=datetime(9999, 12, 31, tzinfo=UTC))]


class _Exported(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExportedCorrection(_Exported):
    id: str = Field(max_length=64)
    label: str | None = Field(max_length=100)
    drawer: Drawer
    made_at: Time
    taken_back_at: Time | None


class ExportedItem(_Exported):
    """A line of items.jsonl."""

    id: Sha256
    revision: int = Field(ge=1, lt=2**31)
    filename: str | None = Field(max_length=MAX_FILENAME_CHARACTERS)
    added_at: Time
    changed_at: Time
    prediction: dict[str, Any]
    corrections: list[ExportedCorrection] = Field(max_length=1000)
    possible_duplicate_of: Sha256 | None = None  # archives of older versions have none
    picture: str = Field(description="Its file in the archive.")

    @property
    def standing_correction(self) -> ExportedCorrection | None:
        """The one that counts: the latest of those that were not taken back."""
        standing = [correction for correction in self.corrections if correction.taken_back_at is None]
        return max(standing, key=lambda correction: correction.made_at, default=None)
