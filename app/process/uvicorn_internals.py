"""Changes to internals of a running uvicorn server that have no public API: its default headers, and the signals that
it raises again at its end. Checked against uvicorn 0.54; check again when uvicorn is upgraded.
"""

from __future__ import annotations

import uvicorn

CONNECTION_CLOSE = (b"connection", b"close")


def send_connection_close(server: uvicorn.Server) -> bool:
    """Add `Connection: close` to every response from now on; returns whether it was not there yet."""
    if CONNECTION_CLOSE in server.config.encoded_headers:
        return False
    server.config.encoded_headers.append(CONNECTION_CLOSE)
    # uvicorn builds the list that is sent from `encoded_headers`, but only once a second.
    server.server_state.default_headers = [*server.server_state.default_headers, CONNECTION_CLOSE]
    return True


def raise_at_exit(server: uvicorn.Server, number: int) -> None:
    """Raise the signal `number` once more when the server has ended, for the previously installed handler."""
    server._captured_signals.append(number)
