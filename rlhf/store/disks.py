"""On which kind of file system a store would lie.

SQLite's log is shared memory between the processes of one machine, and its locks are the file
system's: over a network either can fail without a word, and the store is damaged.
"""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = re.compile(r"nfs4?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\..+")


def remote_file_system(folder: Path) -> str | None:
    """Name the network file system that a folder lies on; None on a local disk.

    Where the system doesn't list its mounts (it does on Linux) nothing is known: None.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    found = ""
    longest = -1
    for line in lines:
        point, kind = _parse(line)
        # Of two mounts at one point the later one covers the other.
        if place.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = kind, len(point.parts)
    return found if _REMOTE.fullmatch(found) else None


def _parse(line: str) -> tuple[Path, str]:
    """Give the mount point and the type of a line of proc(5)'s mountinfo."""
    before, _, after = line.partition(" - ")
    point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split(" ")[4])
    return Path(point), after.split(" ")[0]
