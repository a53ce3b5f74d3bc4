"""Settings: where they come from, what is refused and how it is said, and that secrets stay secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from app.cli.serve import settings_help
from app.process.gateway import check_workers
from app.settings import ACTION_WEIGHTS, Settings
from app.system.checks import check_settings
from services.errors import SettingsInvalid
from tests.service import running

SECRET = "correct-horse-battery-staple"


def refusal(environ: dict[str, str], **overrides: Any) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load(environ, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ltrr.toml of the place where tests happen to run."""
    monkeypatch.chdir(tmp_path)


class TestSources:
    def test_defaults(self) -> None:
        settings = Settings.load({})
        assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8000, Path("var"))
        assert settings.query_ttl_seconds == 21600
        assert settings.attribution_seconds == 1800
        assert settings.admin_key is None

    def test_environment_over_file_over_defaults(self, tmp_path: Path) -> None:
        file = tmp_path / "own.toml"
        file.write_text(
            'port = 9000\nhost = "127.0.0.2"\naction_weights = { click = 2.0 }\ncors_origins = ["https://a"]\n'
        )
        settings = Settings.load({"LTRR_CONFIG": str(file), "LTRR_PORT": "9001"})
        assert (settings.port, settings.host, settings.max_concurrency) == (9001, "127.0.0.2", 64)
        assert settings.action_weights == {**ACTION_WEIGHTS, "click": 2.0}
        assert settings.cors_origins == ["https://a"]
        assert Settings.load({"LTRR_CONFIG": str(file), "LTRR_PORT": ""}).port == 9000, "an empty one is not set"

    def test_file_beside_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "ltrr.toml").write_text("port = 9005")
        assert Settings.load({}).port == 9005

    def test_lists_and_tables_of_the_environment(self) -> None:
        environ = {"LTRR_CORS_ORIGINS": "https://a, https://b,", "LTRR_ACTION_WEIGHTS": "click=1.5,purchase=10"}
        settings = Settings.load(environ)
        assert settings.cors_origins == ["https://a", "https://b"]
        assert settings.action_weights == {**ACTION_WEIGHTS, "click": 1.5, "purchase": 10.0}

    def test_other_names_of_the_environment_are_none_of_ours(self) -> None:
        assert Settings.load({"PATH": "/bin", "ltrr_port": "1", "LTR_PORT": "x"}).port == 8000

    @pytest.mark.parametrize("content", ["port = ", "port = 1\nport = 2", "\x00"])
    def test_broken_files_are_named(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "own.toml"
        file.write_text(content)
        assert str(file) in refusal({"LTRR_CONFIG": str(file)})

    def test_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "own.toml"
        file.write_bytes(b"host = '\xff\xfe'")
        assert str(file) in refusal({"LTRR_CONFIG": str(file)})

    def test_missing_file_is_named(self) -> None:
        assert "LTRR_CONFIG" in refusal({"LTRR_CONFIG": "/nowhere.toml"})


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("LTRR_PROT", "LTRR_PORT"),
            ("LTRR_ADMIN", "LTRR_ADMIN_KEY"),
            ("LTRR_DATADIR", "LTRR_DATA_DIR"),
            ("LTRR_REDIS", "LTRR_REDIS_URL"),
            ("LTRR_ATTRIBUTION", "LTRR_ATTRIBUTION_SECONDS"),
            ("LTRR_port", "LTRR_PORT"),
        ],
    )
    def test_unknown_name_comes_with_the_nearest(self, name: str, near: str) -> None:
        message = refusal({name: SECRET})
        assert name in message
        assert f"did you mean {near}?" in message

    @pytest.mark.parametrize("name", ["LTRR_", "LTRR_X", "LTRR_9"])
    def test_any_unknown_name_is_refused(self, name: str) -> None:
        assert name in refusal({name: "1"})

    def test_unknown_key_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "ltrr.toml").write_text(f'admin_kye = "{SECRET}"')
        assert "did you mean admin_key?" in refusal({})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT", "0"),
            ("PORT", "65536"),
            ("PORT", "http"),
            ("EXPLORATION", "0.6"),
            ("EXPLORATION", "nan"),
            ("CANDIDATE_BUDGET", "5"),
            ("CANDIDATE_PRICE", "inf"),
            ("POLICY", "bandit"),
            ("QUERY_TTL_SECONDS", "86401"),
            ("QUERY_TTL_SECONDS", "0"),
            ("ATTRIBUTION_SECONDS", "inf"),
            ("ATTRIBUTION_SECONDS", "-1"),
            ("MAX_CONCURRENCY", "0"),
            ("MAX_BODY_BYTES", "10"),
            ("MEMORY_HALF_LIFE_DAYS", "0"),
            ("ACTION_WEIGHTS", "click"),
            ("ACTION_WEIGHTS", "click=nan"),
            ("ACTION_WEIGHTS", "clik=1"),
            ("HOST", "0.0.0.0"),
            ("HOST", "::"),
            ("HOST", "shop.example"),
        ],
    )
    def test_bad_values_are_named(self, name: str, value: str) -> None:
        assert refusal({f"LTRR_{name}": value}).startswith(f"LTRR_{name}: ")

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    def test_loopback_needs_no_key(self, host: str) -> None:
        assert Settings.load({"LTRR_HOST": host}).host == host

    def test_other_addresses_need_one(self) -> None:
        assert "LTRR_ADMIN_KEY" in refusal({"LTRR_HOST": "0.0.0.0"})
        assert "LTRR_ADMIN_KEY" in refusal({"LTRR_HOST": "0.0.0.0", "LTRR_ADMIN_KEY": ""})
        assert Settings.load({"LTRR_HOST": "0.0.0.0", "LTRR_ADMIN_KEY": SECRET}).host == "0.0.0.0"

    @pytest.mark.parametrize("key", [" ", "\t", f" {SECRET}", f"{SECRET}\n", "schlüssel", "a\x00b"])
    def test_keys_that_no_header_carries_are_refused(self, key: str) -> None:
        assert refusal({"LTRR_ADMIN_KEY": key}).startswith("LTRR_ADMIN_KEY: ")

    @pytest.mark.parametrize("name", ["OPENSEARCH_URL", "QDRANT_URL", "REDIS_URL"])
    @pytest.mark.parametrize(
        "url", ["127.0.0.1:1", "ftp://127.0.0.1", "http://", "https://[::1", f"x://u:{SECRET}@h:1"]
    )
    def test_addresses_that_cannot_be(self, name: str, url: str) -> None:
        said = refusal({f"LTRR_{name}": url, "LTRR_SIGNING_KEYS": f"k1:{SECRET}"})
        assert said.startswith(f"LTRR_{name}: ")
        assert SECRET not in said

    def test_redis_needs_signing_keys_that_every_process_has(self) -> None:
        assert refusal({"LTRR_REDIS_URL": "redis://127.0.0.1:1"}).startswith("LTRR_SIGNING_KEYS: ")
        assert Settings.load({"LTRR_REDIS_URL": "redis://h:1", "LTRR_SIGNING_KEYS": f"k1:{SECRET}"}).embedded == [
            "LTRR_OPENSEARCH_URL",
            "LTRR_QDRANT_URL",
        ]

    def test_the_mirror_needs_opensearch(self) -> None:
        assert refusal({"LTRR_UBI": "true"}).startswith("LTRR_UBI: ")

    def test_signing_keys_are_checked_and_not_repeated(self, tmp_path: Path) -> None:
        for keys in (SECRET, f"k1:{SECRET},k1:{SECRET}", "k1:short", f"bad kid:{SECRET}", f"k1:{SECRET},{SECRET}x"):
            with pytest.raises(SettingsInvalid) as caught:
                check_settings(Settings.load({"LTRR_SIGNING_KEYS": keys}, data_dir=tmp_path))
            assert SECRET not in str(caught.value)

    def test_data_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(SettingsInvalid, match="LTRR_DATA_DIR"):
            check_settings(Settings.load({"LTRR_DATA_DIR": str(tmp_path / "file" / "data")}))

    def test_workers_that_would_share_what_cannot_be_shared(self) -> None:
        check_workers(Settings.load({}), 1)
        for workers in (0, -1, 2, 64):
            with pytest.raises(SettingsInvalid, match="--workers"):
                check_workers(Settings.load({}), workers)
        with pytest.raises(SettingsInvalid, match="LTRR_REDIS_URL"):
            check_workers(Settings.load({"LTRR_OPENSEARCH_URL": "http://a", "LTRR_QDRANT_URL": "http://b"}), 2)


class TestSecrets:
    def test_are_in_no_form_of_the_settings(self) -> None:
        settings = Settings.load({"LTRR_ADMIN_KEY": SECRET, "LTRR_SIGNING_KEYS": f"k1:{SECRET}"})
        for form in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
            assert SECRET not in form

    def test_are_in_no_error_however_deep(self, tmp_path: Path) -> None:
        file = tmp_path / "own.toml"
        file.write_text(f'admin_key = ["{SECRET}"]')
        with pytest.raises(SettingsInvalid) as caught:
            Settings.load({"LTRR_CONFIG": str(file)})
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__

    def test_help_lists_every_setting_with_what_it_does(self) -> None:
        text = settings_help()
        for name in Settings.model_fields:
            assert f"LTRR_{name.upper()}" in text
        assert len(text.splitlines()) == len(Settings.model_fields)

    def test_generated_keys_are_the_owners_alone(self, tmp_path: Path) -> None:
        with running(tmp_path / "data"):
            pass
        mode = os.stat(tmp_path / "data" / "signing_keys").st_mode
        assert mode & 0o777 == 0o600
