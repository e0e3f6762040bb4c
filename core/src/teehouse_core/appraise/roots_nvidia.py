# SPDX-License-Identifier: Apache-2.0
"""The pinned NVIDIA roots: who may vouch for a GPU or switch, and who may say which firmware is right.

As in `roots`, the platform type alone chooses: only a bundle of the type `simulated` is checked against the simulated
roots, so simulated devices can never verify as hardware, nor beside hardware.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from cryptography import x509

__all__ = [
    "NVIDIA_DEVICE_ROOT_PEM",
    "NVIDIA_RIM_ROOT_PEM",
    "SIMULATED_DEVICE_ROOT_PEM",
    "SIMULATED_RIM_ROOT_PEM",
    "NvidiaRoots",
    "nvidia_roots_for",
]

NVIDIA_DEVICE_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIw
IAYDVQQDDBlOVklESUEgRGV2aWNlIElkZW50aXR5IENBMQ8wDQYDVQQKDAZOVklE
SUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTlaMDUxIjAgBgNVBAMM
GU5WSURJQSBEZXZpY2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAG
ByqGSM49AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW9NDZF8SX
gAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfEIrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB
2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQY
MBaAFFeF/4PyY8xlfWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3
TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOLSR/qvJynVOD1vQKVXf0CMQC+
EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA=
-----END CERTIFICATE-----
"""
"""NVIDIA Device Identity CA, for GPUs and NVSwitches alike, valid 2021-11-05 to 9999-12-31,
SHA-256 102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48."""

NVIDIA_RIM_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQsw
CQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29S
SU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1MzczNFoYDzIwNTMwMzA4MTUz
NzM0WjBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxO
VklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYFK4EEACID
YgAEuECyi9vNM+Iw2lfUzyBldHAwaC1HF7TCgp12QcEyUTm3Tagxwr48d55+K2VI
lWYIDk7NlAIQdcV/Ff7euGLI+Qauj93HsSI4WX298PpW54RTgz9tC+Q684caR/BX
WEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYDVR0jBBgw
FoAUpaXrOPK4ZDAk08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAQYwCgYIKoZIzj0EAwMDZwAwZAIwHGDyscDP6ihHqRvZlI3eqZ4YkvjE
1duaN84tAHRVgxVMvNrp5Tnom3idHYGW/dskAjATvjIx6VzHm/4e2GiZAyZEIUBD
OKPzp5ei/A0iUZpdvngenDwV8Qa/wGdiTmJ7Bp4=
-----END CERTIFICATE-----
"""
"""NVIDIA CoRIM signing Root CA, for reference integrity manifests, valid 2023-03-16 to 2053-03-08,
SHA-256 12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1."""

SIMULATED_DEVICE_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIB9TCCAXugAwIBAgIIU0lNVUxBVEUwCgYIKoZIzj0EAwMwQDE+MDwGA1UEAww1
U0lNVUxBVEVEIFRlZWhvdXNlIGRldmljZSByb290LCBwcml2YXRlIGtleSBpcyBw
dWJsaWMwHhcNMjAwMTAxMDAwMDAwWhcNNDkxMjMxMjM1OTU5WjBAMT4wPAYDVQQD
DDVTSU1VTEFURUQgVGVlaG91c2UgZGV2aWNlIHJvb3QsIHByaXZhdGUga2V5IGlz
IHB1YmxpYzB2MBAGByqGSM49AgEGBSuBBAAiA2IABOEHg4ERol5APONk3HhdIvB6
NM3REy46QzW5/IVK27P40OCnX+5u5PbcpN46kQrErswkBF0Mz0jhSHGFht5jMMnq
/ts/LCzOINIlTNlrOLwyaZKo7lDVjo8bdZ+Y+AbVqaNCMEAwDwYDVR0TAQH/BAUw
AwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFNG5UQHtMOV4xTFP1GZ/7L7n
lJhyMAoGCCqGSM49BAMDA2gAMGUCMQDDBwB12aFdp3ET5s4bva+AvimWxqwqASmW
Cte7ghiy7KTZfbRrF5Hrd1rg7Yb/olsCMB47NmDPMDGmXlwroyjIYcD7lhV0FbTa
GHfHUP5sRk5FBWWBm0QbdU5ekXNuQFU2HQ==
-----END CERTIFICATE-----
"""
"""NOT a root of trust: its private key is the SHA-384 of its own name, so everybody has it.
Subject "SIMULATED Teehouse device root, private key is public",
SHA-256 94a975cc285fd1dcb044f58ad4ac116d26307d7a5395312c6c855fd095eedb13."""

SIMULATED_RIM_ROOT_PEM: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIB7zCCAXWgAwIBAgIIU0lNVUxBVEUwCgYIKoZIzj0EAwMwPTE7MDkGA1UEAwwy
U0lNVUxBVEVEIFRlZWhvdXNlIFJJTSByb290LCBwcml2YXRlIGtleSBpcyBwdWJs
aWMwHhcNMjAwMTAxMDAwMDAwWhcNNDkxMjMxMjM1OTU5WjA9MTswOQYDVQQDDDJT
SU1VTEFURUQgVGVlaG91c2UgUklNIHJvb3QsIHByaXZhdGUga2V5IGlzIHB1Ymxp
YzB2MBAGByqGSM49AgEGBSuBBAAiA2IABMGUE34xm6N8vFPjG6BP8w7nZU4MSV8l
r4cVe5Ef8xTVOUUAlXYnDA2i8Fnp9a4O2yTiPqao8TGo/irJ1GsqjKGZwlLzSsKC
Y1y7LDcvIYyPWxIcxTfo8/BscpzupkAXBqNCMEAwDwYDVR0TAQH/BAUwAwEB/zAO
BgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFD/0AsMemC2dbnok158vsXD2Ip1hMAoG
CCqGSM49BAMDA2gAMGUCMAb00ShUM7EjU3GSsuZdLGa2KZ8hiyIBl3ovguf7eTeC
Li60Kj4OUIh4yRNXWKjXsQIxAIur5AyDo/gbaBkQ9E2OpWkHeT+VZrNCoR0Axkuy
zjs6bpGTGuVNZabuTrY4efLiFw==
-----END CERTIFICATE-----
"""
"""NOT a root of trust: its private key is the SHA-384 of its own name, so everybody has it.
Subject "SIMULATED Teehouse RIM root, private key is public",
SHA-256 e7f06bdd7708923d6b2ef3362509a4eeedae59b37b36bb4602ae0eaab0bdaccd."""


@dataclass(frozen=True, slots=True)
class NvidiaRoots:
    """`device` ends every device chain, `rim` every manifest signer's."""

    device: x509.Certificate
    rim: x509.Certificate


@functools.cache
def nvidia_roots_for(platform_type: str) -> NvidiaRoots:
    """The roots for devices of a bundle of this platform type; NVIDIA's own for every type but `simulated`."""
    simulated = platform_type == "simulated"
    device = SIMULATED_DEVICE_ROOT_PEM if simulated else NVIDIA_DEVICE_ROOT_PEM
    rim = SIMULATED_RIM_ROOT_PEM if simulated else NVIDIA_RIM_ROOT_PEM
    return NvidiaRoots(x509.load_pem_x509_certificate(device), x509.load_pem_x509_certificate(rim))
