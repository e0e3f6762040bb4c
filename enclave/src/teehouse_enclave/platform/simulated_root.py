# SPDX-License-Identifier: Apache-2.0
"""THE PRIVATE KEY OF THE SIMULATED ROOT. IT IS PUBLIC. IT PROVES NOTHING.

Anybody who reads this file can make evidence that verifies under this root, which is its purpose: the whole appraisal
runs on a laptop, over the real wire format, and says `simulated` in every place where a person could look. Its
certificate stands in `teehouse_core.appraise.roots`, is used for the platform type `simulated` only, and no policy but
`evaluate` knows that type. A hardware verdict cannot come from it.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["SIMULATED_ROOT_PRIVATE_KEY", "root_key"]

# SHA-256 of the root's own name, so that nobody mistakes it for a secret that leaked.
SIMULATED_ROOT_PRIVATE_KEY: Final = 0x8F402A723FE9584AA15CDE204512A1205B394DF3B35EAF2F7C3583268AF65D34


def root_key() -> ec.EllipticCurvePrivateKey:
    """The P-256 private key that everybody has."""
    return ec.derive_private_key(SIMULATED_ROOT_PRIVATE_KEY, ec.SECP256R1())
