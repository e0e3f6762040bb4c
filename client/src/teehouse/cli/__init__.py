# SPDX-License-Identifier: Apache-2.0
"""The `teehouse` command: one module per command, `main` the error boundary, `output` how all of them talk."""
