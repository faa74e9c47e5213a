"""A PostgreSQL server of the tests' own, on a socket in its folder."""

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

START_TIMEOUT_SECONDS = 60
USER = "postgres"  # the server refuses to run as root


@contextmanager
def postgresql() -> Generator[str, None, None]:
    """Its URL; the test is skipped where no server is installed."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if not (initdb and server):
        pytest.skip("PostgreSQL is not installed (initdb and postgres are not on the PATH)")
    user = USER if os.geteuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 characters
    process = None
    try:
        shutil.chown(folder, user)
        data = str(folder / "data")
        subprocess.run(
            [initdb, "--pgdata", data, "--auth", "trust", "--username", "wardrobe", "--no-sync"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        process = subprocess.Popen(
            [server, "-D", data, "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"],
            user=user,
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        url = f"postgresql://wardrobe@/postgres?host={folder}"
        _wait_until_ready(url)
        yield url
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def emptied(url: str) -> str:
    """The same database, with nothing in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url
