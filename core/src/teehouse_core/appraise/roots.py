# SPDX-License-Identifier: Apache-2.0
"""The pinned roots: who may vouch for a machine, by platform type.

A root is chosen by the platform type alone, never by what a chain says about itself, so simulated evidence can never
verify as hardware: the type `tdx` knows Intel's root and nothing else.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = ["INTEL_SGX_ROOT_PEM", "SIMULATED_ROOT_PEM", "intel_root_for", "root_der"]

INTEL_SGX_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIw
aDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENv
cnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgG
A1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0
aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi7
1OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOB
uzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50
ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV
Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwg
AiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
-----END CERTIFICATE-----
"""
"""Intel SGX Root CA, valid 2018-05-21 to 2049-12-31,
SHA-256 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3."""

SIMULATED_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIB8DCCAZWgAwIBAgIJU0lNVUxBVEVEMAoGCCqGSM49BAMCMEkxRzBFBgNVBAMM
PlNJTVVMQVRFRCBUZWVob3VzZSByb290LCBwcml2YXRlIGtleSBpcyBwdWJsaWMs
IHByb3ZlcyBub3RoaW5nMB4XDTIwMDEwMTAwMDAwMFoXDTQ5MTIzMTIzNTk1OVow
STFHMEUGA1UEAww+U0lNVUxBVEVEIFRlZWhvdXNlIHJvb3QsIHByaXZhdGUga2V5
IGlzIHB1YmxpYywgcHJvdmVzIG5vdGhpbmcwWTATBgcqhkjOPQIBBggqhkjOPQMB
BwNCAAQtN8lLmVU/u/oSqaW8L7bag/Var8hW0FiODNDPh3BsJUlStlItx3ogJJwJ
6mvERaxtov/fTv3ijkxknRlYqkVao2YwZDASBgNVHRMBAf8ECDAGAQH/AgEBMA4G
A1UdDwEB/wQEAwIBBjAdBgNVHQ4EFgQUIkUtf59OV4+CGrKFqQ9/5HH54mQwHwYD
VR0jBBgwFoAUIkUtf59OV4+CGrKFqQ9/5HH54mQwCgYIKoZIzj0EAwIDSQAwRgIh
ANYf9uSr68lEF8Hdqjm4Xf5yYNfLMYPsBh5YpIAZEc5dAiEApvArOL6KfYvUyFCP
3WuWG/qNX7wHTm3lHkJZwekN9Ak=
-----END CERTIFICATE-----
"""
"""NOT a root of trust: its private key is public (enclave platform/simulated_root.py), so it proves nothing.
Subject "SIMULATED Teehouse root, private key is public, proves nothing",
SHA-256 7f48a34a7420e25480016517be6caa293e242a28737b52fc749371212bd6c68e."""

_BY_PLATFORM: Final = {"tdx": INTEL_SGX_ROOT_PEM, "simulated": SIMULATED_ROOT_PEM}


def intel_root_for(platform_type: str) -> x509.Certificate | None:
    """The root that PCK and TCB-signing chains of this platform type must end in, or None for other technologies."""
    pem = _BY_PLATFORM.get(platform_type)
    return None if pem is None else x509.load_pem_x509_certificate(pem)


def root_der(platform_type: str) -> bytes | None:
    """The same root as DER bytes."""
    root = intel_root_for(platform_type)
    return None if root is None else root.public_bytes(Encoding.DER)
