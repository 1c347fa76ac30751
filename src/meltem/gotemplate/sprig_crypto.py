"""Sprig's hashes, keys, certificates and AES, on `cryptography`. Validity starts at the clock that is passed in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import zlib
from datetime import UTC, datetime, timedelta

from meltem.clock import Clock
from meltem.gotemplate.sprig_strings import to_strings
from meltem.gotemplate.values import Function, FunctionError, GoStruct, Value, functions


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def sha1sum(text: str) -> str:
    return hashlib.sha1(_raw(text), usedforsecurity=False).hexdigest()


def sha256sum(text: str) -> str:
    return hashlib.sha256(_raw(text)).hexdigest()


def sha512sum(text: str) -> str:
    return hashlib.sha512(_raw(text)).hexdigest()


def adler32sum(text: str) -> str:
    return str(zlib.adler32(_raw(text)))


def rand_bytes(count: int) -> str:
    if not 0 <= count <= 1 << 20:
        raise FunctionError("randBytes wants 0 to 1048576 bytes")
    return base64.b64encode(os.urandom(count)).decode()


def bcrypt(text: str) -> str:
    raise FunctionError("bcrypt hashes cannot be made here; make one with htpasswd and pass it as a value")


def htpasswd(user: str, password: str) -> str:
    if ":" in user:
        return f"invalid username: {user}"
    raise FunctionError("bcrypt hashes cannot be made here; make one with htpasswd and pass it as a value")


_SITE_TEMPLATES = {
    "maximum": ("anoxxxxxxxxxxxxxxxxx", "axxxxxxxxxxxxxxxxxno"),
    "long": (
        "CvcvnoCvcvCvcv", "CvcvCvcvnoCvcv", "CvcvCvcvCvcvno", "CvccnoCvcvCvcv", "CvccCvcvnoCvcv", "CvccCvcvCvcvno",
        "CvcvnoCvccCvcv", "CvcvCvccnoCvcv", "CvcvCvccCvcvno", "CvcvnoCvcvCvcc", "CvcvCvcvnoCvcc", "CvcvCvcvCvccno",
        "CvccnoCvccCvcv", "CvccCvccnoCvcv", "CvccCvccCvcvno", "CvcvnoCvccCvcc", "CvcvCvccnoCvcc", "CvcvCvccCvccno",
        "CvccnoCvcvCvcc", "CvccCvcvnoCvcc", "CvccCvcvCvccno",
    ),
    "medium": ("CvcnoCvc", "CvcCvcno"),
    "short": ("Cvcn",),
    "basic": ("aaanaaan", "aannaaan", "aaannaaa"),
    "pin": ("nnnn",),
}  # fmt: skip
_SITE_CHARACTERS = {
    "V": "AEIOU",
    "C": "BCDFGHJKLMNPQRSTVWXYZ",
    "v": "aeiou",
    "c": "bcdfghjklmnpqrstvwxyz",
    "A": "AEIOUBCDFGHJKLMNPQRSTVWXYZ",
    "a": "AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz",
    "n": "0123456789",
    "o": "@&%?,=[]_:-+*$#!'^~;()/.",
    "x": "AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz0123456789!@#$%^&*()",
}


def derive_password(counter: int, kind: str, password: str, user: str, site: str) -> str:
    """The "Master Password" algorithm: scrypt of the password, HMAC of the site, a template of character classes."""
    templates = _SITE_TEMPLATES.get(kind)
    if templates is None:
        return f"cannot find password template {kind}"
    scope = b"com.lyndir.masterpassword"
    salt = scope + len(_raw(user)).to_bytes(4, "big") + _raw(user)
    key = hashlib.scrypt(_raw(password), salt=salt, n=32768, r=8, p=2, dklen=64, maxmem=128 << 20)
    message = scope + len(_raw(site)).to_bytes(4, "big") + _raw(site) + (counter & 0xFFFFFFFF).to_bytes(4, "big")
    seed = hmac.new(key, message, hashlib.sha256).digest()
    chosen = templates[seed[0] % len(templates)]
    out: list[str] = []
    for index, character_class in enumerate(chosen):
        letters = _SITE_CHARACTERS[character_class]
        out.append(letters[seed[index + 1] % len(letters)])
    return "".join(out)


def encrypt_aes(password: str, text: str) -> str:
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = _raw(password)[:32].ljust(32, b"\0")
    pad = padding.PKCS7(128).padder()
    vector = os.urandom(16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    body = encryptor.update(pad.update(_raw(text)) + pad.finalize()) + encryptor.finalize()
    return base64.b64encode(vector + body).decode()


def decrypt_aes(password: str, text: str) -> str:
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = _raw(password)[:32].ljust(32, b"\0")
    try:
        raw = base64.b64decode(text, validate=True)
        decryptor = Cipher(algorithms.AES(key), modes.CBC(raw[:16])).decryptor()
        unpad = padding.PKCS7(128).unpadder()
        body = unpad.update(decryptor.update(raw[16:]) + decryptor.finalize()) + unpad.finalize()
    except ValueError as error:
        raise FunctionError(f"cannot decrypt: {error}") from None
    return body.decode("utf-8", "surrogateescape")


def gen_private_key(kind: str) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

    key: rsa.RSAPrivateKey | dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    layout = serialization.PrivateFormat.TraditionalOpenSSL
    match kind:
        case "" | "rsa":
            key = rsa.generate_private_key(65537, 4096)
        case "dsa":
            key = dsa.generate_private_key(2048)
        case "ecdsa":
            key = ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            key, layout = ed25519.Ed25519PrivateKey.generate(), serialization.PrivateFormat.PKCS8
        case _:
            return f"Unknown type {kind}"
    return key.private_bytes(serialization.Encoding.PEM, layout, serialization.NoEncryption()).decode()


class _Certificates:
    """The genCA family. A certificate is a struct with fields `Cert` and `Key`, both PEM."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def build_custom_cert(self, certificate: str, key: str) -> GoStruct:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            cert_pem = base64.b64decode(certificate, validate=True)
            key_pem = base64.b64decode(key, validate=True)
            x509.load_pem_x509_certificate(cert_pem)
            load_pem_private_key(key_pem, None)
        except (ValueError, TypeError) as error:
            raise FunctionError(f"cannot use the certificate or its key: {error}") from None
        return _pair(cert_pem.decode(), key_pem.decode())

    def gen_ca(self, name: str, days: int) -> GoStruct:
        return self.make(name, [], [], days, None, "", authority=True)

    def gen_ca_with_key(self, name: str, days: int, key: str) -> GoStruct:
        return self.make(name, [], [], days, None, key, authority=True)

    def gen_self_signed_cert(self, name: str, ips: Value, names: Value, days: int) -> GoStruct:
        return self.make(name, to_strings(ips), to_strings(names), days, None, "")

    def gen_self_signed_cert_with_key(self, name: str, ips: Value, names: Value, days: int, key: str) -> GoStruct:
        return self.make(name, to_strings(ips), to_strings(names), days, None, key)

    def gen_signed_cert(self, name: str, ips: Value, names: Value, days: int, ca: Value) -> GoStruct:
        return self.make(name, to_strings(ips), to_strings(names), days, ca, "")

    def gen_signed_cert_with_key(self, name: str, ips: Value, names: Value, days: int, ca: Value, key: str) -> GoStruct:
        return self.make(name, to_strings(ips), to_strings(names), days, ca, key)

    def make(
        self,
        name: str,
        ips: list[str],
        names: list[str],
        days: int,
        ca: Value,
        key_pem: str,
        *,
        authority: bool = False,
    ) -> GoStruct:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = self._key(key_pem) if key_pem else rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer, signer = subject, key
        if ca is not None:
            if not isinstance(ca, GoStruct) or "Cert" not in ca.fields:
                raise FunctionError("wrong type for value; expected sprig.certificate")
            issuer = x509.load_pem_x509_certificate(_raw(str(ca.fields["Cert"]))).subject
            signer = self._key(str(ca.fields["Key"]))
        start = datetime.fromtimestamp(self.clock.now(), UTC)
        usages = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=True, data_encipherment=False,
            key_agreement=False, key_cert_sign=authority, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days))
            .add_extension(usages, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in names]
        try:
            alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        except ValueError as error:
            raise FunctionError(f"error parsing ip: {error}") from None
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(signer, hashes.SHA256())
        layout = serialization.PrivateFormat.TraditionalOpenSSL
        if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
            layout = serialization.PrivateFormat.PKCS8
        pem = serialization.Encoding.PEM
        return _pair(
            certificate.public_bytes(pem).decode(),
            key.private_bytes(pem, layout, serialization.NoEncryption()).decode(),
        )

    def _key(self, pem: str):
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_raw(pem), None)
        except (ValueError, TypeError) as error:
            raise FunctionError(f"error parsing private key: {error}") from None
        if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
            raise FunctionError("only RSA, ECDSA and Ed25519 keys sign certificates")
        return key


def _pair(certificate: str, key: str) -> GoStruct:
    return GoStruct("sprig.certificate", {"Cert": certificate, "Key": key})


def crypto_functions(clock: Clock) -> dict[str, Function]:
    certificates = _Certificates(clock)
    return functions(
        sha1sum=sha1sum, sha256sum=sha256sum, sha512sum=sha512sum, adler32sum=adler32sum, bcrypt=bcrypt,
        htpasswd=htpasswd, derivePassword=derive_password, encryptAES=encrypt_aes, decryptAES=decrypt_aes,
        randBytes=rand_bytes, genPrivateKey=gen_private_key, buildCustomCert=certificates.build_custom_cert,
        genCA=certificates.gen_ca, genCAWithKey=certificates.gen_ca_with_key,
        genSelfSignedCert=certificates.gen_self_signed_cert,
        genSelfSignedCertWithKey=certificates.gen_self_signed_cert_with_key,
        genSignedCert=certificates.gen_signed_cert, genSignedCertWithKey=certificates.gen_signed_cert_with_key,
    )  # fmt: skip
