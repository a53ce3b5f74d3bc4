"""Query ids: only ours are valid, for as long as they should be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stat
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import SettingsInvalid
from services.query_ids import Signer, load_or_create_keys, parse_keys

OLD = ("old", b"an old secret of fair length")
NEW = ("new", b"a new secret of fair length!")
NOW = 1_795_000_000.0
ALPHABET = string.ascii_letters + string.digits + "-_."

signer = Signer([NEW, OLD], ttl=3600.0)


def test_an_issued_id_is_valid_and_safe_in_urls() -> None:
    ids = [signer.issue(NOW) for _ in range(1000)]
    assert len(set(ids)) == 1000
    for query_id in ids:
        assert re.fullmatch(r"new\.[A-Za-z0-9_-]{56}", query_id)
        assert signer.verify(query_id, NOW) == "valid"


def test_the_layout_is_the_documented_one() -> None:
    kid, _, encoded = signer.issue(NOW).partition(".")
    raw = base64.urlsafe_b64decode(encoded)
    assert int.from_bytes(raw[:6], "big") == NOW * 1000
    message = b"ltrr query id\0new." + raw[:22]
    assert raw[22:] == hmac.new(NEW[1], message, hashlib.sha256).digest()[:20]
    assert kid == "new"


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(0, "valid"), (3600, "valid"), (3600.002, "expired"), (1e9, "expired"), (-60, "valid"), (-60.002, "forged")],
)
def test_age_is_measured_by_the_server_clock_with_a_minute_of_skew(age: float, verdict: str) -> None:
    assert signer.verify(signer.issue(NOW), NOW + age) == verdict


def test_keys_are_rotated_without_losing_ids() -> None:
    before, after, dropped = Signer([OLD], 3600.0), Signer([NEW, OLD], 3600.0), Signer([NEW], 3600.0)
    query_id = before.issue(NOW)
    assert after.verify(query_id, NOW) == "valid"
    assert after.issue(NOW).startswith("new.")
    assert dropped.verify(query_id, NOW) == "forged"
    assert dropped.verify(after.issue(NOW), NOW) == "valid"


def test_another_secret_under_the_same_kid_is_forged() -> None:
    stranger = Signer([("new", b"a guess of the secret, wrong")], 3600.0)
    assert signer.verify(stranger.issue(NOW), NOW) == "forged"
    swapped = signer.issue(NOW).replace("new.", "old.")
    assert signer.verify(swapped, NOW) == "forged"


@given(st.text() | st.from_regex(r"(new|old)\.[A-Za-z0-9_-]{50,60}") | st.text(alphabet=ALPHABET, max_size=70))
def test_no_string_raises_and_none_but_ours_is_valid(text: str) -> None:
    assert signer.verify(text, NOW) == "forged"


@given(st.data())
def test_no_single_change_survives(data: st.DataObject) -> None:
    query_id = signer.issue(NOW)
    at = data.draw(st.integers(0, len(query_id) - 1))
    character = data.draw(st.sampled_from([c for c in ALPHABET + "+/= \n" if c != query_id[at]]))
    for changed in (
        query_id[:at] + character + query_id[at + 1 :],
        query_id[:at] + query_id[at + 1 :],
        query_id[:at] + character + query_id[at:],
    ):
        assert signer.verify(changed, NOW) == "forged"


def test_lone_surrogates_are_no_reason_to_raise() -> None:
    assert signer.verify("new.\ud800" + "a" * 55, NOW) == "forged"


def test_parse_keys() -> None:
    text = " a:0123456789abcdef, b-2:with:colons:inside:it "
    assert parse_keys(text) == [("a", b"0123456789abcdef"), ("b-2", b"with:colons:inside:it")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "entry 1 is not kid:secret"),
        ("a:0123456789abcdef,", "entry 2 is not kid:secret"),
        ("0123456789abcdef", "entry 1 is not kid:secret"),
        (":0123456789abcdef", "the kid of entry 1"),
        ("a.b:0123456789abcdef", "the kid of entry 1"),
        ("é:0123456789abcdef", "the kid of entry 1"),
        ("a:0123456789abcde", "the secret of a has fewer than 16"),
        ("a:0123456789abcdef,a:0123456789abcdef", "kid a is given twice"),
    ],
)
def test_keys_that_cannot_work_are_named_without_the_secret(text: str, problem: str) -> None:
    with pytest.raises(SettingsInvalid, match="signing_keys") as caught:
        parse_keys(text)
    assert problem in str(caught.value)
    assert "0123456789" not in str(caught.value)


def test_a_signer_needs_a_key() -> None:
    with pytest.raises(SettingsInvalid):
        Signer([], 3600.0)


def test_keys_are_created_once_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "var" / "keys"
    ((kid, secret),) = load_or_create_keys(path)
    assert len(secret) >= 32
    assert kid == "k1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_keys(path) == [(kid, secret)]
    assert [file.name for file in path.parent.iterdir()] == ["keys"]


def test_a_mode_that_others_could_read_is_tightened(tmp_path: Path) -> None:
    keys = load_or_create_keys(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o644)
    assert load_or_create_keys(tmp_path / "keys") == keys
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


def test_many_that_create_at_once_load_the_same_keys(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(load_or_create_keys, [tmp_path / "keys"] * 64))
    assert all(keys == loaded[0] for keys in loaded)
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


def test_who_loses_the_race_leaves_the_keys_of_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = load_or_create_keys(tmp_path / "keys")
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was when the loser looked
    assert load_or_create_keys(tmp_path / "keys") == keys
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize("content", [b"", b"k1:short\n", b"\xff\xfe"])
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(SettingsInvalid, match="keys"):
        load_or_create_keys(tmp_path / "keys")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsInvalid, match="signing_keys"):
        load_or_create_keys(tmp_path / "file" / "keys")
