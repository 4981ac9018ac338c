"""The limit on tokens: what is longer is refused before training, never cut."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.errors import DataError


def refuse_long(
    rows: Sequence[tuple[int, str]], *, limit: int, field: str | None, source: str, what: str
) -> None:
    """Refuse data of which some rows have too many tokens.

    Args:
        rows: Tokens and text of each row, in the order of the file.
        limit: Most tokens allowed.
        field: Config field that holds the limit; None where it is the model's positions.
        source: The file, for the message.
        what: What a row is, in the plural.

    Raises:
        DataError: Saying how many rows are too long, how long the longest is, and which comes
            first.
    """
    long = [(size, text) for size, text in rows if size > limit]
    if not long:
        return
    share = f"{len(long)} of {len(rows)} {what}"
    named = f"{field} {limit} tokens" if field else f"the model's {limit} positions"
    remedy = f"raise {field} or drop them" if field else "drop them"
    raise DataError(
        f"{source}: {share} have more than {named} (the longest {max(long)[0]}), "
        f"first {long[0][1][:50]!r} with {long[0][0]}; {remedy}"
    )
