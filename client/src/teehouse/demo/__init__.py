# SPDX-License-Identifier: Apache-2.0
"""`teehouse demo`: one question through a whole SIMULATED platform, what the gateway saw of it, and three attacks.

Everything it shows is computed from what happened: bytes come off a relay of the demo's own, the attacks are played by
a relay that really lies, and one that is not refused ends the demo with an error.
"""
