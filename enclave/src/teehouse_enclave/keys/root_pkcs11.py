# SPDX-License-Identifier: Apache-2.0
"""Sealing by an HSM over PKCS#11: an AES-256 key that never leaves it encrypts the root (AES-GCM).

The HSM opens for whoever has its PIN; it does not know what a TEE is. So the PIN must reach the service sealed to its
platform, or the HSM must be one that asks for evidence itself; a PIN in a file that the operator reads gives him the
root. What an HSM adds is that the root can be used on another machine, and that destroying its key ends everything.
Encryption is asked for instead of C_WrapKey because wrapping first makes the root an object of the HSM's session.
The vendor's library runs in this process; the extra `pkcs11` brings the binding (python-pkcs11).
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import NoSuchKey, PKCS11Error

from teehouse_core.errors import LocalError, OperatorError
from teehouse_core.wire.labels import L

__all__ = ["Pkcs11Backend"]

NONCE: Final = 12  # bytes; drawn here, one or two in a key's life
TAG_BITS: Final = 128
KEY_BITS: Final = 256
_AAD: Final = L("tks pkcs11 root")


class Pkcs11Backend:
    """Implements `RootBackend` with the secret key `label` on the token `token`, made when it is missing."""

    name = "pkcs11"
    simulated = False

    def __init__(self, library: str, token: str, pin: str, *, label: str = "teehouse-root") -> None:
        try:
            self._session = pkcs11.lib(library).get_token(token_label=token).open(rw=True, user_pin=pin)
        except (PKCS11Error, RuntimeError) as error:
            raise _failed("the HSM does not open a session", error) from None
        try:
            self._key = self._find(label)
        except BaseException:
            self._session.close()
            raise

    def seal(self, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)
        try:
            sealed = self._key.encrypt(secret, mechanism=Mechanism.AES_GCM, mechanism_param=_params(nonce))
        except PKCS11Error as error:
            raise _failed("the HSM does not encrypt", error) from None
        return nonce + bytes(sealed)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            mechanism, params = Mechanism.AES_GCM, _params(sealed[:NONCE])
            return bytes(self._key.decrypt(sealed[NONCE:], mechanism=mechanism, mechanism_param=params))
        except PKCS11Error as error:
            text = f"the HSM's key does not open the root ({type(error).__name__})"
            hint = "another token, or another key under this label"
            raise LocalError(text, code="root-sealed-elsewhere", hint=hint) from None

    def close(self) -> None:
        self._session.close()

    def _find(self, label: str) -> Any:
        """The key, which must never have been outside."""
        try:
            try:
                key = self._session.get_key(object_class=ObjectClass.SECRET_KEY, label=label)
            except NoSuchKey:
                key = self._session.generate_key(
                    KeyType.AES,
                    KEY_BITS,
                    label=label,
                    store=True,
                    capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                    template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True},
                )
            shut = (Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE)
            if key[Attribute.EXTRACTABLE] or not all(key[name] for name in shut):
                hint = "let the HSM make it: sensitive, not extractable"
                raise LocalError("the HSM's key can be, or could once be, read", code="root-hsm-key", hint=hint)
        except PKCS11Error as error:
            raise _failed("the HSM has no usable key", error) from None
        return key


def _params(nonce: bytes) -> GCMParams:
    return GCMParams(nonce, _AAD, TAG_BITS)


def _failed(what: str, error: Exception) -> OperatorError:
    hint = "library, token label, PIN: check them with the vendor's tool"
    return OperatorError(f"{what} ({type(error).__name__})", code="root-hsm", hint=hint)
