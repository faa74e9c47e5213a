"""What travels as JSON about items."""

from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from app.api.examples import ITEM
from app.api.schemas import FailedImagePublic, PredictionPublic, Problem
from app.artifact import Drawer, Sha256


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeptPrediction(PredictionPublic):
    """What the model said when the item was added, with all classes in `top_k`."""

    filename: None = Field(default=None, exclude=True, repr=False)
    explanation: None = Field(default=None, exclude=True, repr=False)


class CorrectionPublic(_Schema):
    """What a person said."""

    id: str
    label: str | None = Field(description="Null: only the drawer was named.", examples=["shirt"])
    drawer: Drawer = Field(examples=["tops"])
    made_at: AwareDatetime
    taken_back_at: AwareDatetime | None = Field(description="Null: it stands.")


class ItemUrls(_Schema):
    picture: str = Field(description="The bytes as they were sent.")
    thumbnail: str = Field(description="JPEG, upright; `?size=` 160, 320 or 960.")
    input: str = Field(description="PNG of what the network got, in the size that it gets.")
    explanation: str = Field(description="PNG to lay over it; `?label=` a class. 404 where the model has none.")
    similar: str = Field(description="The items most like it. 404 where the model cannot tell.")


class ItemPublic(_Schema):
    """A picture in the wardrobe."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [ITEM]})

    id: Sha256 = Field(description="SHA-256 of the picture's bytes.")
    revision: int = Field(description="One more with each change.", examples=[1])
    filename: str | None = Field(description="As first sent; null for a raw body.", examples=["boot.jpg"])
    added_at: AwareDatetime
    changed_at: AwareDatetime
    num_bytes: int
    drawer: Drawer = Field(
        description="Where it lies now: by the last correction that stands, else by the model.", examples=["footwear"]
    )
    label: str | None = Field(
        description="Likewise; of a correction that only names the drawer, its most probable class, or null.",
        examples=["Ankle boot"],
    )
    corrected: bool = Field(description="A correction stands.")
    prediction: KeptPrediction
    corrections: list[CorrectionPublic] = Field(description="Oldest first; the last one that stands counts.")
    possible_duplicate_of: Sha256 | None = Field(
        description="The item that looked much like this one when this one was added; null: none, or somebody said "
        "that both are wanted."
    )
    urls: ItemUrls


class SimilarItem(_Schema):
    similarity: float = Field(
        ge=-1, le=1, description="Cosine of the angle between what the model makes of the two.", examples=[0.87]
    )
    item: ItemPublic


class SimilarItems(_Schema):
    """Nearest first."""

    items: list[SimilarItem]
    num_waiting: int = Field(
        description="Items that were not compared: the model that is served now gets to look at them in the background."
    )


class SimilarPicture(_Schema):
    filename: str | None = Field(description="As sent; null for a raw body.", examples=["boot.jpg"])
    items: list[SimilarItem] = Field(description="Nearest first.")


class SimilarResponse(_Schema):
    """One entry for each image, in the order sent."""

    pictures: list[SimilarPicture | FailedImagePublic]
    num_waiting: int = Field(
        description="Items that were not compared: the model that is served now gets to look at them in the background."
    )


class AddedItem(_Schema):
    filename: str | None = Field(description="As sent now.")
    duplicate: bool = Field(description="The same bytes were here already: this is their item, unchanged.")
    item: ItemPublic


class AddResponse(_Schema):
    """One entry for each image, in the order sent."""

    items: list[AddedItem | FailedImagePublic]


class ItemsPage(_Schema):
    items: list[ItemPublic]
    next: str | None = Field(description="`cursor` of the next page; null: this is the last one.")
    total: int = Field(description="Items that match, on all pages.")
    drawers: dict[str, int] = Field(description="Items by drawer in the whole wardrobe.", examples=[{"tops": 12}])


class _Request(_Schema):
    model_config = ConfigDict(extra="forbid", strict=True)  # `"undo": 0` and `"revision": "1"` are mistakes


class ItemChange(_Request):
    """A label, a drawer or both; or `undo`."""

    # Which of them go together the validator says: as a union of three in the description, one change would be three
    # classes in every generated client.
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    label: str | None = Field(
        None, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$", description="What it is.", examples=["shirt"]
    )
    drawer: Drawer | None = Field(
        None, description="Where it belongs; may be left out with a label that the item's model knows."
    )
    undo: bool = Field(False, description="Take the last correction that stands back.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.undo == (self.label is not None or self.drawer is not None):
            raise ValueError("give a label, a drawer or both; or undo alone")
        return self


class SeenItem(_Request):
    """An item, and which revision of it was seen; null: whatever it is now."""

    id: Sha256
    revision: int | None = None


class ChangeRequest(_Request):
    items: list[SeenItem] = Field(min_length=1, max_length=1000)
    change: ItemChange


class DeleteRequest(_Request):
    items: list[SeenItem] = Field(min_length=1, max_length=1000)


class ChangedItem(_Schema):
    id: str
    item: ItemPublic


class DeletedItem(_Schema):
    id: str
    deleted: Literal[True] = True


class FailedItem(_Schema):
    """One item that could not be changed; the others are not affected."""

    id: str
    error: Problem


class ChangeResponse(_Schema):
    """One entry for each item, in the order sent."""

    items: list[ChangedItem | FailedItem]


class DeleteResponse(_Schema):
    """One entry for each item, in the order sent."""

    items: list[DeletedItem | FailedItem]


class FailedImport(_Schema):
    name: str = Field(description="File or line of the archive.")
    error: Problem


class ImportResponse(_Schema):
    added: int
    merged: int = Field(description="Here already, and given corrections that they did not have.")
    unchanged: int
    failed: list[FailedImport]
