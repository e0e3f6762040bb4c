# SPDX-License-Identifier: Apache-2.0
"""Model weights on their publisher's machine: encrypted, decrypted, looked at, and taken over from another tool.

Works on folders, in bounded memory, and goes on where it was killed. The format is `teehouse_core.weights`.
"""

from __future__ import annotations
