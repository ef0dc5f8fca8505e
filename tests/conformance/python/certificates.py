"""Certificates for mutual TLS, made for one test and thrown away."""

import datetime
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes]:
        """The key and the certificate, in the order in which gRPC asks for them."""
        return self.key.read_bytes(), self.certificate.read_bytes()


class Authority:
    """Vouches for others."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        itself = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self.certificate = self._write(f"{name}.pem", self._signed(itself))

    def vouch(self, name: str, who: x509.GeneralName) -> Pair:
        """A certificate for whoever has this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        named = self._builder(subject, key).add_extension(x509.SubjectAlternativeName([who]), critical=False)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(self._write(f"{name}.pem", self._signed(named)), self._write(f"{name}.key", secret))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


def address(text: str) -> x509.GeneralName:
    """The name of a server at an IPv4 address."""
    return x509.IPAddress(IPv4Address(text))


def uri(text: str) -> x509.GeneralName:
    """The name of a workload, such as a SPIFFE id."""
    return x509.UniformResourceIdentifier(text)
