"""Refuses connections to other machines, in tests and in the processes they start.

Libraries often continue if a connection fails, and tests would not notice it.
"""

import sys

LOCAL = ("127.", "::1", "localhost")


class RemoteConnectionError(BaseException):
    """Not an `Exception`: a library would handle it as a network failure."""


def refuse(event: str, args: tuple[object, ...]) -> None:
    """Raises an error if a socket connects to another machine or resolves its name."""
    if event == "socket.connect":
        address = args[1]
    elif event == "socket.getaddrinfo":
        address = args[:2]
    else:
        return
    if isinstance(address, tuple):  # a Unix socket's address is a path
        host = str(address[0] or "localhost")
        if not host.startswith(LOCAL):
            raise RemoteConnectionError(f"{event}: {address} is not this machine")


if __name__ == "connections":  # not if pytest collects doctests
    sys.addaudithook(refuse)
