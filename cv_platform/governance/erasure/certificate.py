"""The certificate of an erasure: what was erased, the proof that it is gone, signed with Ed25519, verified offline.

The signature (RFC 8032) is over the canonical JSON of all but itself: keys sorted, no spaces, UTF-8.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from cv_platform.governance.key_files import write_key_file
from cv_platform.settings import Settings

FORMAT: Final = "cv_platform/erasure-certificate/1"


class CertificateInvalid(Exception):
    """The certificate is not what was signed, or another key signed it."""


def canonical(document: dict[str, Any]) -> bytes:
    """The bytes that are signed: the document without its signature."""
    plain = {name: value for name, value in document.items() if name != "signature"}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(document: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The document with a signature; the public key stands in it for a reader's convenience, not as proof."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    body = {**document, "format": FORMAT, "public_key": base64.b64encode(public).decode()}
    return {**body, "signature": base64.b64encode(key.sign(canonical(body))).decode()}


def read(text: str) -> dict[str, Any]:
    """A certificate's text as a document. Raises CertificateInvalid, ValueError.

    A name that stands twice is refused: a reader may see the one value, while the other is what was signed.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise CertificateInvalid("a name stands twice in it; allowed is each name once")
        return found

    document = json.loads(text, object_pairs_hook=unique)
    return document if isinstance(document, dict) else {}


def verify(document: dict[str, Any], key: Ed25519PublicKey) -> None:
    """Check a certificate against a public key that the reader has from elsewhere. Raises CertificateInvalid."""
    if document.get("format") != FORMAT:
        raise CertificateInvalid(f"its format is {document.get('format')!r}; allowed is {FORMAT!r}")
    try:
        key.verify(base64.b64decode(str(document.get("signature", "")), validate=True), canonical(document))
    except (InvalidSignature, ValueError):
        raise CertificateInvalid("the signature is not that of this text by this key") from None


def signing_key(path: Path, *, create: bool) -> Ed25519PrivateKey:
    """The key that signs, from a PEM file that only its owner can read.

    Args:
        create: make one where there is none; for the embedded stack.

    Raises:
        FileNotFoundError: there is none, and none may be made.
        ValueError: the file holds no Ed25519 key.
    """
    if create and not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # several may make one at once: the first one's holds
            write_key_file(path, pem)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: the Ed25519 key (PEM) that signs certificates; make one with"
            " `openssl genpkey -algorithm ed25519`, and name it by CV_PLATFORM_SIGNING_KEY_FILE"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} holds a key of another kind; allowed is Ed25519 in PEM")
    return key


def signing_key_of(settings: Settings) -> Ed25519PrivateKey:
    """The key that the settings name; a machine on its own makes one. Raises FileNotFoundError, ValueError."""
    if settings.signing_key_file is not None:
        return signing_key(settings.signing_key_file, create=False)
    alone = settings.store_url.startswith("file:") and settings.raw_store_url.startswith("file:")
    return signing_key(settings.state_dir / "keys" / "erasure-signing.pem", create=alone)


def public_key(text: bytes) -> Ed25519PublicKey:
    """A public key as PEM, or its 32 bytes in base64. Raises ValueError."""
    if b"BEGIN" in text:
        key = load_pem_public_key(text)
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the file holds a key of another kind; allowed is an Ed25519 public key")
        return key
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
    except ValueError:
        raise ValueError("no Ed25519 public key; allowed is PEM, or its 32 bytes in base64") from None


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public half, as PEM: what is given to whoever verifies."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
