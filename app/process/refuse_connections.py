"""Refuse new TCP connections on a listening socket, while those that have begun to connect still get through.

Closing the listener would reset what it has not accepted yet. Instead a packet filter (a classic BPF program that the
kernel runs on every packet of the listener) drops those that open a connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

SO_ATTACH_FILTER = 26
REFUSE_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x02),  # keep SYN
    (0x15, 0, 1, 0x02),  # is it set?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else take all of it
)
"""Instructions (code, jump if true, jump if false, operand), as `struct sock_filter` has them (linux/filter.h)."""


def refuse_connections(listener: socket.socket) -> None:
    """Accept no new connections to `listener` from now on. A client whose packet is dropped sends it again after a
    second, as after any lost packet: by then the port is closed, or the next process listens. Linux only; elsewhere
    nothing happens."""
    if sys.platform != "linux":
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in REFUSE_SYN)
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(REFUSE_SYN), ctypes.addressof(kept))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
