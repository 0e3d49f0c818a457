"""A certificate for a registry on its user's own machine, and an authority that signs it.

Made once in the data folder; the certificate is made again when it is about to expire or when it
is asked for other names. The authority stays, so that it has to be trusted only once.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# OpenSSL, and with it curl and az, takes no wildcard directly below a top-level name as Go does, so
# the names that a registry on this machine is likely to have are here, too.
LOCAL_NAMES = (
    "localhost",
    "*.localhost",
    "registry.localhost",
    "myregistry.localhost",
    "ullage.localhost",
    "127.0.0.1",
    "::1",
)
AUTHORITY_LIFETIME = timedelta(days=3650)
# What browsers and Apple's clients accept at most is 398 days.
CERTIFICATE_LIFETIME = timedelta(days=390)
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files: what to serve with, and what clients have to trust."""

    authority: Path
    certificate: Path
    key: Path


def self_signed(folder: Path, names: Sequence[str], now: datetime) -> Certificates:
    """A certificate for this machine's local names and `names`, made or still good.

    Every user of this machine may read the authority, once the folder above `folder` lets them in;
    only the owner reads a key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    wanted = list(dict.fromkeys((*LOCAL_NAMES, *names)))
    authority_key = folder / "ca.key"
    if not _authority_good(made.authority, authority_key, now):
        _make_authority(made.authority, authority_key, now)
    if not _certificate_good(made, wanted, now):
        _make_certificate(made, authority_key, wanted, now)
    return made


def name_in(certificate: Path) -> str | None:
    """A name to connect to: the first in the certificate that is no pattern."""
    found = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    texts = names.get_values_for_type(x509.DNSName)
    return next((name for name in texts if "*" not in name), None)


def _authority_good(path: Path, key_path: Path, now: datetime) -> bool:
    """Whether it is there, whole, and will be for longer than what it signs has to last."""
    found = _read_pair(path, key_path)
    return found is not None and now < found.not_valid_after_utc - 2 * RENEW_BEFORE


def _certificate_good(made: Certificates, wanted: Sequence[str], now: datetime) -> bool:
    """Whether it is there, whole, of this authority, for these names and for a while yet."""
    found = _read_pair(made.certificate, made.key)
    if found is None:
        return False
    try:
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(made.authority.read_bytes()))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return now < found.not_valid_after_utc - RENEW_BEFORE and set(names) == set(_names(wanted))


def _read_pair(path: Path, key_path: Path) -> x509.Certificate | None:
    """A certificate, if it and its key are there and belong together: a crash may part them."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return certificate if certificate.public_key() == key.public_key() else None


def _make_authority(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"Ullage local authority {now:%Y-%m-%d}")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key), 0o600)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    # Users that are to trust it have to get there, whatever the umask says.
    path.parent.chmod(0o755)


def _make_certificate(
    made: Certificates, authority_key: Path, wanted: Sequence[str], now: datetime
) -> None:
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ullage")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(min(now + CERTIFICATE_LIFETIME, authority.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(_names(wanted)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    _write(made.key, _pem(key), 0o600)
    _write(made.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _names(wanted: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for name in wanted:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            names.append(x509.DNSName(name))
    return names


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace the file in one step; a key is never readable by others, not even for a moment."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(content)
        # The umask must not take away what other users need.
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
