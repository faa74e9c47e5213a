"""The tables. A change here needs a migration under `migrations/versions`; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

REVIEW = "review"
NOT_A_GARMENT = "not_a_garment"


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in and out; SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012  # SQLAlchemy's own form


class Identity(Base):
    """One row, which says to which picture folder this database belongs."""

    __tablename__ = "identity"

    id: Mapped[str] = mapped_column(primary_key=True)


class Item(Base):
    """A picture that is kept; `id` is the SHA-256 of its bytes.

    `prediction` stays as the model made it. `label`, `drawer`, `corrected` and `search` follow from it and from the
    corrections: `settle` writes them, so that they can be searched and sorted by.
    """

    __tablename__ = "items"

    id: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int]
    filename: Mapped[str | None]
    num_bytes: Mapped[int]
    added_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    prediction: Mapped[dict[str, Any]]
    probability: Mapped[float]  # of the predicted label
    label: Mapped[str | None]
    drawer: Mapped[str] = mapped_column(index=True)
    corrected: Mapped[bool]
    search: Mapped[str]
    corrections: Mapped[list["Correction"]] = relationship(
        order_by="Correction.made_at", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )
    possible_duplicate: Mapped["PossibleDuplicate | None"] = relationship(
        foreign_keys="PossibleDuplicate.item_id", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )

    __table_args__ = (Index("ix_items_added", "added_at", "id"),)

    @property
    def standing(self) -> list["Correction"]:
        """The corrections that were not taken back, oldest first; the last one counts."""
        return [correction for correction in self.corrections if correction.taken_back_at is None]

    @property
    def possible_duplicate_of(self) -> str | None:
        """The item that may show the same garment, as long as nobody said what to do."""
        return None if self.possible_duplicate is None else self.possible_duplicate.other_id

    def settle(self) -> None:
        """Let the last standing correction decide, or the model if there is none."""
        decision, standing = self.prediction["decision"], self.standing
        if standing:
            self.drawer = standing[-1].drawer
            self.label = standing[-1].label or self._best_label(self.drawer)
        else:
            self.drawer = self.prediction["group"] if decision == "sorted" else decision
            self.label = self.prediction["label"]
        self.corrected = bool(standing)
        self.search = f"{self.filename or ''} {self.label or ''} {self.drawer}".casefold()

    def _best_label(self, drawer: str) -> str | None:
        """The most probable class of a drawer; None if the model knows none."""
        if drawer in (REVIEW, NOT_A_GARMENT):
            return str(self.prediction["label"])
        return next((top["label"] for top in self.prediction["top_k"] if top["group"] == drawer), None)


class Correction(Base):
    """What a person said of an item; `label` is None when only the drawer was named."""

    __tablename__ = "corrections"

    id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), index=True)
    label: Mapped[str | None]
    drawer: Mapped[str]
    made_at: Mapped[datetime]
    taken_back_at: Mapped[datetime | None]


class PossibleDuplicate(Base):
    """An item that was added though another one looks much the same; gone when one of them is, or both are wanted."""

    __tablename__ = "possible_duplicates"

    item_id: Mapped[str] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    other_id: Mapped[str] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), index=True)


class Embedding(Base):
    """Where a model, named by its digest, sees an item; only vectors of one model can be compared.

    In a table of its own, so that nobody reads its kilobytes with the item.
    """

    __tablename__ = "embeddings"

    item_id: Mapped[str] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    vector: Mapped[bytes]  # see app.store.similar; empty: it cannot be made, and nobody has to try again
