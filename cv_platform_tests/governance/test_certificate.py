"""A certificate stands or falls with its signature, offline."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cv_platform.governance.erasure.certificate import (
    CertificateInvalid,
    public_key,
    public_pem,
    read,
    sign,
    signing_key,
    signing_key_of,
    verify,
)
from cv_platform.settings import Settings

KEY = Ed25519PrivateKey.generate()
DOCUMENT: dict[str, Any] = {"request": "r", "erased": {"clips": 3, "ü": [1, 2]}, "absence": {"rows": 0}}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda name: name not in {"format", "public_key", "signature"}), PLAIN))
def test_what_was_signed_verifies_after_any_way_through_json(document: dict[str, Any]) -> None:
    signed = json.loads(json.dumps(sign(document, KEY), indent=3))
    verify(dict(reversed(signed.items())), KEY.public_key())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["erased"].update(clips=2),
        lambda d: d.update(more=1),
        lambda d: d.pop("absence"),
        lambda d: d.update(format="other/1"),
        lambda d: d.pop("signature"),
        lambda d: d.update(signature="AAAA"),
        lambda d: d.update(signature="not base64 ÿ"),
    ],
)
def test_any_change_is_seen(change: Any) -> None:
    signed = json.loads(json.dumps(sign(DOCUMENT, KEY)))
    change(signed)
    with pytest.raises(CertificateInvalid):
        verify(signed, KEY.public_key())


def test_a_name_that_stands_twice_is_refused() -> None:
    """Parsers take the last value, a person the first: only one of the two was signed."""
    text = json.dumps(sign(DOCUMENT, KEY))
    verify(read(text), KEY.public_key())
    for forged in (text.replace("{", '{"format": "x", ', 1), text.replace('"erased": {', '"erased": {"clips": 9, ', 1)):
        assert forged != text
        with pytest.raises(CertificateInvalid, match="twice"):
            read(forged)


def test_another_keys_signature_is_none_whatever_key_stands_in_it() -> None:
    with pytest.raises(CertificateInvalid, match="by this key"):
        verify(sign(DOCUMENT, Ed25519PrivateKey.generate()), KEY.public_key())


def test_both_forms_of_a_public_key_are_read(tmp_path: Path) -> None:
    signed = sign(DOCUMENT, KEY)
    verify(signed, public_key(public_pem(KEY)))
    verify(signed, public_key(signed["public_key"].encode()))
    for text in (b"", b"AAAA", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"):
        with pytest.raises(ValueError, match=r".+"):
            public_key(text)


def test_a_machine_on_its_own_makes_one_key_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.pem"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: public_pem(signing_key(path, create=True)), range(16)))
    assert len(set(made)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["signing.pem"]


def test_where_a_store_is_no_folder_the_key_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="CV_PLATFORM_SIGNING_KEY_FILE"):
        signing_key_of(Settings(state_dir=tmp_path, object_store_url="s3://bucket"))
    with pytest.raises(FileNotFoundError, match="openssl genpkey"):
        signing_key_of(Settings(state_dir=tmp_path, signing_key_file=tmp_path / "none.pem"))
    assert list(tmp_path.iterdir()) == []
