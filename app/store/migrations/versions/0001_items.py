"""Items and their corrections."""

import sqlalchemy as sa
from alembic import op

from app.store.tables import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("identity", sa.Column("id", sa.String(), primary_key=True))
    op.create_table(
        "items",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("filename", sa.String()),
        sa.Column("num_bytes", sa.Integer(), nullable=False),
        sa.Column("added_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("prediction", sa.JSON(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("label", sa.String()),
        sa.Column("drawer", sa.String(), nullable=False),
        sa.Column("corrected", sa.Boolean(), nullable=False),
        sa.Column("search", sa.String(), nullable=False),
    )
    op.create_index("ix_items_drawer", "items", ["drawer"])
    op.create_index("ix_items_added", "items", ["added_at", "id"])
    op.create_table(
        "corrections",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("item_id", sa.String(), sa.ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
        sa.Column("label", sa.String()),
        sa.Column("drawer", sa.String(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("taken_back_at", UtcDateTime()),
    )
    op.create_index("ix_corrections_item_id", "corrections", ["item_id"])
