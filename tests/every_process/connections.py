"""Refuses connections to other machines, in the test process and in each Python below.

A library that finds no network often goes on without one, and a test would not notice.
"""

import sys

LOCAL = ("127.", "::1", "localhost")


class RemoteConnectionError(BaseException):
    """Not an `Exception`, so that no library takes it for a network that is down."""


def refuse(event: str, args: tuple[object, ...]) -> None:
    """Raises an error if a socket connects to another machine, or looks for one."""
    if event == "socket.connect":
        address = args[1]
    elif event == "socket.getaddrinfo":
        address = args[:2]
    else:
        return
    if isinstance(address, tuple):  # that of a Unix socket is a path
        host = str(address[0] or "localhost")
        if not host.startswith(LOCAL):
            raise RemoteConnectionError(f"{event}: {address} is not this machine")


if __name__ == "connections":  # not if pytest collects doctests
    sys.addaudithook(refuse)
