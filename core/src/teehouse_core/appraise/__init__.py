# SPDX-License-Identifier: Apache-2.0
"""Appraisal: evidence bytes, a policy and a time give a verdict that lists every check.

`appraise.appraise` is the function, `policy.Policy` and `verdict.{Verdict,Accepted,Check}` its values. Nothing is
imported here, so that a node which needs the root constants does not load the Verifier.
"""
