"""Run a command beside a PostgreSQL server: ``python tests/with_postgres.py pytest tests/store``.

The server lives in a temporary folder, listens on a socket there and goes with the command, which
finds its URL in RLHF_TEST_POSTGRES_URL. PostgreSQL refuses to run as root: then it runs as the
user ``postgres`` or, where there is none, ``nobody``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "RLHF_TEST_POSTGRES_URL"
MISSING = (
    "error: no PostgreSQL server found; install it: apt-get install postgresql (Debian, Ubuntu), "
    "brew install postgresql (macOS), or put its bin folder on PATH\n"
)


def main(command):
    if not command:
        sys.stderr.write("usage: with_postgres.py COMMAND [ARGUMENT ...]\n")
        return 2
    binaries = find_binaries()
    if binaries is None:
        sys.stderr.write(MISSING)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with server(binaries) as url:
        return subprocess.run(command, env={**os.environ, VARIABLE: url}, check=False).returncode


def find_binaries():
    """Give the folder of ``initdb`` and ``pg_ctl``; Debian keeps it off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def server(binaries):
    """Give the URL of a new server that is stopped and removed at the end."""
    user = server_user()
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgres-"))
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    data, log = folder / "data", folder / "log"

    def run(name, *arguments):
        done = subprocess.run(
            [binaries / name, "-D", data, *arguments],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            told = log.read_text() if log.exists() else ""
            raise SystemExit(f"error: {name} failed:\n{done.stdout}{told}")

    try:
        run("initdb", "-U", "rlhf", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # A role of this name needs its password: so a wrong one can be tried.
        hba = data / "pg_hba.conf"
        hba.write_text(f"local all rlhf_locked scram-sha-256\n{hba.read_text()}")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run("pg_ctl", "-l", str(log), "-o", options, "-w", "start")
        try:
            yield f"postgresql://rlhf@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def server_user():
    """Give the user as which the server runs; None is the one who asks."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
