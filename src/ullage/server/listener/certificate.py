"""The certificate to serve with: two PEM files, and whether they can be used."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class TlsUnusable(Exception):
    """The files cannot be used. The text names the file and the reason, in one line."""


def _nothing() -> None:
    """For files that are renewed elsewhere."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files with the certificate chain and its key."""

    certificate: Path
    key: Path
    # Called before the files are read again: makes a certificate of our own anew when it is time.
    renew: Callable[[], object] = _nothing


def require_usable(tls: Tls) -> str:
    """A fingerprint of both files' contents. Raises TlsUnusable."""
    hasher = hashlib.sha256()
    for name, path in (("tls_cert", tls.certificate), ("tls_key", tls.key)):
        try:
            hasher.update(path.read_bytes())
        except OSError as error:
            raise TlsUnusable(f"{name}: {path}: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(tls.certificate)
    except ssl.SSLError as error:
        raise TlsUnusable(
            f"tls_cert: {tls.certificate} holds no certificate in PEM form"
        ) from error
    try:
        # No terminal asks for a passphrase.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            reason = f"does not belong to the certificate in {tls.certificate}"
        else:
            reason = "holds no private key in PEM form, or one that is locked with a passphrase"
        raise TlsUnusable(f"tls_key: {tls.key} {reason}") from error
    return hasher.hexdigest()


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """To serve with by ourselves; None without a certificate. The files are usable."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key, password="")
    return context


def leaf_of(tls: Tls) -> bytes:
    """The certificate that clients are shown first, in DER form."""
    pem = tls.certificate.read_text(encoding="ascii", errors="replace")
    start, end = pem.index(ssl.PEM_HEADER), pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(pem[start:end])
