"""Which file systems a store is refused on, by lines as Linux writes them."""

from pathlib import Path

import pytest

from rlhf.errors import StoreError
from rlhf.store import RankingStore, disks

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:40 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
32 31 254:1 / /home/local rw - xfs /dev/vdb rw
33 22 0:41 / /mnt/team\040share rw,relatime - cifs //server/team rw
34 22 0:42 / /mnt/bucket rw - fuse.gcsfuse bucket rw
35 22 8:17 / /mnt/stick rw - fuseblk /dev/sdb1 rw
36 22 254:2 / /mnt/twice rw - ext4 /dev/vdc rw
37 36 0:43 / /mnt/twice rw - 9p host rw
"""


@pytest.fixture(autouse=True)
def mounts(tmp_path, monkeypatch):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS.strip() + "\n")
    monkeypatch.setattr(disks, "_MOUNTS", file)
    return file


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/srv/data", None),
        ("/home/ann", "nfs4"),
        ("/homes", None),
        ("/home/local/ann", None),
        ("/mnt/team share/x", "cifs"),
        ("/mnt/bucket", "fuse.gcsfuse"),
        ("/mnt/stick", None),
        ("/mnt/twice", "9p"),
    ],
)
def test_the_mount_that_holds_a_folder_decides(folder, found):
    assert disks.remote_file_system(Path(folder)) == found


def test_without_a_list_of_mounts_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(disks, "_MOUNTS", Path("/nowhere"))
    assert disks.remote_file_system(Path("/home/ann")) is None


def test_a_store_on_a_network_share_is_refused_before_anything_is_written(tmp_path, mounts):
    mounts.write_text(f"22 1 0:40 / {tmp_path} rw - nfs server:/ rw\n")
    with pytest.raises(StoreError, match=r"lies on nfs, .*local disk.*PostgreSQL"):
        RankingStore.open(tmp_path / "store.sqlite")
    assert [file.name for file in tmp_path.iterdir()] == ["mountinfo"]
