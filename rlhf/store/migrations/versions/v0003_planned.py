"""Third schema: how many people a task was planned for, whatever the first ones say of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; where a third person may have been asked since, two count as planned."""
    op.add_column(
        "tasks", sa.Column("planned", sa.Integer, nullable=False, server_default=sa.text("1"))
    )
    op.execute(sa.text("UPDATE tasks SET planned = CASE WHEN overlap > 2 THEN 2 ELSE overlap END"))
