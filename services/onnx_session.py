"""Sessions of ONNX Runtime, the same for every model that is served."""

from __future__ import annotations

import os

from services.errors import ModelInvalid

# Read when the runtime is imported. It would send usage data to its makers, and keep an id of the device in the home
# folder.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = ["onnx_session", "onnxruntime"]

_EXTERNAL = b"\x0a\x08location"
"""Protobuf encoding of the key "location" of a tensor's external data: the runtime would open that path."""


def onnx_session(model: bytes) -> onnxruntime.InferenceSession:
    """A session on the CPU that runs on the calling thread and does not spin: by default the runtime uses every core of
    the host and burns one while idle. Raises ModelInvalid for a model that does not load or names other files."""
    if _EXTERNAL in model:
        raise ModelInvalid("keeps data in other files; export it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # problems with a model are in the exception; the runtime must not write to stderr
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base but this
        raise ModelInvalid(f"does not load ({type(error).__name__})") from error
