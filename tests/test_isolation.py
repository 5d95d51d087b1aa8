"""Tests are isolated from other machines."""

import socket

import pytest
from connections import RemoteConnectionError
from support import run_python

CONNECT = "import socket\nwith socket.socket() as s: s.connect(('192.0.2.1', 80))"


def test_a_connection_to_another_machine_fails() -> None:
    with pytest.raises(RemoteConnectionError, match=r"192\.0\.2\.1"):
        exec(CONNECT)
    with pytest.raises(RemoteConnectionError, match=r"example\.org"):
        socket.create_connection(("example.org", 80))
    finished = run_python("-c", CONNECT)
    assert "RemoteConnectionError" in finished.stderr
    assert "192.0.2.1" in finished.stderr
