"""Tests are isolated from the user's home folder and from other machines."""

import os
import pwd
import socket
from pathlib import Path

import pytest
from connections import RemoteConnectionError
from support import run_python

CONNECT = "import socket\nwith socket.socket() as s: s.connect(('192.0.2.1', 80))"


def test_the_home_folder_is_not_the_users_own() -> None:
    finished = run_python("-c", "import pathlib; print(pathlib.Path.home())")
    assert finished.stdout.strip() == str(Path.home())
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)


def test_a_connection_to_another_machine_fails() -> None:
    with pytest.raises(RemoteConnectionError, match=r"192\.0\.2\.1"):
        exec(CONNECT)
    with pytest.raises(RemoteConnectionError, match=r"example\.org"):
        socket.create_connection(("example.org", 80))
    finished = run_python("-c", CONNECT)
    assert "RemoteConnectionError" in finished.stderr
    assert "192.0.2.1" in finished.stderr
