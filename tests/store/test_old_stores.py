"""What the first version made stays as it was."""

import hashlib
import sqlite3

from old_stores import make_first

FIRST_SCHEMA = "a792caec94d9bec225a22e836957f26a3f93ea9cb6f179d358b1afd2501ea661"
"""Hash of the definitions in a store that the version before PostgreSQL had made."""


def test_the_first_schema_of_a_file_never_changes(path):
    """Stores of it exist, and `rlhf rankings verify` compares definitions letter by letter."""
    make_first(str(path))
    with sqlite3.connect(path) as raw:
        rows = raw.execute(
            "SELECT sql FROM sqlite_master WHERE sql <> '' AND tbl_name <> 'alembic_version'"
        ).fetchall()
    definitions = "\n".join(sorted(sql for (sql,) in rows))
    assert hashlib.sha256(definitions.encode()).hexdigest() == FIRST_SCHEMA
