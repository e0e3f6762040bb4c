# SPDX-License-Identifier: Apache-2.0
"""One vendor artifact at a time, which Teehouse did not make: a quote, a report, a log. One module per technology."""
