# SPDX-License-Identifier: Apache-2.0
"""The node: opens sealed requests, lets the engine answer, seals the answers. The only process that reads prompts.

config   what it is told, and which part of that is measured
keys     HPKE and signing keys, made at boot, rotated in memory
evidence bundles over the current keyset
chat     one opened request → engine → OpenAI bytes
coalesce bytes → records, in time
exchange one sealed request from first to last byte
usage    signed usage records that the gateway fetches
app      HTTP, as one bare ASGI callable
main     the process
"""
