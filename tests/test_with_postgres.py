"""The script behind `make test-postgres`: what is missing is told, the server goes with it."""

import sys
from pathlib import Path

import pytest
import with_postgres


def test_a_missing_server_names_the_package_and_exits_2(monkeypatch, capsys):
    monkeypatch.setattr(with_postgres, "find_binaries", lambda: None)
    assert with_postgres.main(["true"]) == 2
    assert "apt-get install postgresql" in capsys.readouterr().err


def test_no_command_exits_2(capsys):
    assert with_postgres.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_the_command_finds_the_server_and_its_status_is_given(capfd):
    if with_postgres.find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed")
    program = f"import os; print(os.environ['{with_postgres.VARIABLE}']); raise SystemExit(7)"
    assert with_postgres.main([sys.executable, "-c", program]) == 7
    folder = Path(capfd.readouterr().out.strip().rpartition("host=")[2])
    assert folder.name.startswith("rlhf-postgres-")
    assert not folder.exists()
