"""``rlhf rankings verify``, ``backup``, ``restore`` and ``erase``.

A backup is a store file, wherever the store lies: it can be verified, opened, and restored into a
file or into PostgreSQL, so it is also the way from one to the other.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config import (
    RankingsBackupConfig,
    RankingsEraseConfig,
    RankingsRestoreConfig,
    RankingsVerifyConfig,
)
from rlhf.errors import StoreError
from rlhf.rankings.faults import Figures, Verdict
from rlhf.rankings.files import close_log, copy_file, remove_file, verify_file
from rlhf.rankings.servers import verify_url
from rlhf.store import RankingStore
from rlhf.store.places import find_place, open_database
from rlhf.store.postgres import PostgresDatabase, shown
from rlhf.store.transfer import copy_rows

if TYPE_CHECKING:
    from sqlalchemy import URL


def verify(config: RankingsVerifyConfig) -> Verdict:
    """Check a store's references, schema, tasks and rankings; nothing is changed.

    Raises:
        StoreError: If it is no ranking store.
    """
    return _verify(find_place(config.store))


def backup(config: RankingsBackupConfig) -> Figures:
    """Copy a store that may be in use; the copy appears whole and verified, or not at all.

    Of a store on PostgreSQL every row of one moment is copied into a store file; what else the
    database holds is not, nor its roles: that is for ``pg_dump`` and ``pg_basebackup``.

    Raises:
        StoreError: If the output exists, can't be written, or the store has a fault.
    """
    source, output = find_place(config.store), Path(config.output)
    name = _name(source)
    with _new_file(output, "--output") as partial:
        if isinstance(source, Path):
            copy_file(source, partial)
        else:
            _refuse_faults(verify_url(source), f"{name}: not backed up", f"{name}: ")
            _copy_out(source, partial)
        verdict = verify_file(partial)
        _refuse_faults(verdict, f"{name}: not backed up", f"{partial}: ")
    return verdict.figures | {"store": name, "backup": str(output)}


def restore(config: RankingsRestoreConfig) -> Figures:
    """Make a store from a backup, upgrade it if need be, and verify it against the backup.

    Raises:
        StoreError: If the store exists, or the backup has a fault.
    """
    source, target = Path(config.backup), find_place(config.store)
    if isinstance(target, Path):
        with _new_file(target, "--store") as partial:
            said = _copy_whole(source, partial)
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "store.sqlite"
            said = _copy_whole(source, copy)
            _copy_in(copy, target)
    verdict = _verify(target)
    _refuse_faults(verdict, "restored, but with a fault", "")
    with RankingStore.open(config.store, create=False) as store:
        if store.fingerprint() != said:
            raise StoreError(f"{store.place}: says other than {source}; don't use it")
    return verdict.figures | {"fingerprint": said, "backup": str(source)}


def erase(config: RankingsEraseConfig) -> Figures:
    """Erase a person from a store; what they ranked stays, under a pseudonym.

    Raises:
        StoreError: If nobody has that name.
    """
    with RankingStore.open(config.store, create=False) as store:
        pseudonym = store.people.erase(config.annotator)
        return {"rankings stay under": pseudonym, "store": store.place}


def _verify(place: Path | URL) -> Verdict:
    return verify_file(place) if isinstance(place, Path) else verify_url(place)


def _name(place: Path | URL) -> str:
    return str(place) if isinstance(place, Path) else shown(place)


def _refuse_faults(verdict: Verdict, what: str, place: str) -> None:
    if verdict.faults:
        raise StoreError(f"{what}: {verdict.faults[0].removeprefix(place)}")


@contextmanager
def _new_file(path: Path, option: str) -> Iterator[Path]:
    """Give a file to write; it is moved to ``path`` at the end of the block, unless that fails."""
    if path.exists():
        raise StoreError(f"{option}: {path} is there already; give a new name")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: can't be written ({error.strerror})") from error
    finally:
        remove_file(partial)


def _copy_whole(backup: Path, path: Path) -> str:
    """Copy a backup, bring the copy to this version and verify it; give its fingerprint."""
    copy_file(backup, path)
    what = f"{backup}: not restored"
    _refuse_faults(verify_file(path, older=True), what, f"{path}: ")
    with RankingStore.open(path, create=False) as store:
        said = store.fingerprint()
    close_log(path)
    _refuse_faults(verify_file(path), what, f"{path}: ")
    return said


def _copy_out(url: URL, path: Path) -> None:
    """Copy the rows of a store on PostgreSQL into a new file."""
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: no such folder; make it first")
    with (
        closing(PostgresDatabase(url, create=False, upgrade=False)) as database,
        closing(open_database(path, create=True)) as copy,
    ):
        copy_rows(database, copy)
    close_log(path)


def _copy_in(path: Path, url: URL) -> None:
    """Copy the rows of a file into an empty schema of PostgreSQL."""
    with (
        closing(open_database(path, create=False)) as copy,
        closing(PostgresDatabase(url, create=True)) as database,
    ):
        copy_rows(copy, database)
