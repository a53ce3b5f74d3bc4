"""Checks of the settings before anything is opened."""

from __future__ import annotations

import os

from app.settings import Settings
from services.errors import SettingsInvalid
from services.query_ids import parse_keys


def check_settings(settings: Settings) -> None:
    """Check the settings, and create the data folder where one is needed. Raises SettingsInvalid for signing keys that
    are malformed, or a folder that cannot be written."""
    if settings.signing_keys is not None:
        parse_keys(settings.signing_keys.get_secret_value())
    if not settings.embedded:
        return
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir}: {error.strerror}") from error
    if not os.access(settings.data_dir, os.W_OK):
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir} cannot be written")
