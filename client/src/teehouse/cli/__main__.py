# SPDX-License-Identifier: Apache-2.0
"""`python -m teehouse.cli`."""

from __future__ import annotations

import sys

from teehouse.cli.main import main

sys.exit(main())
