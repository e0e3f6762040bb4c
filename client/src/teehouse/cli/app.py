# SPDX-License-Identifier: Apache-2.0
"""The tree of commands. Each lives in its own module, which is imported when it runs."""

from __future__ import annotations

import typer

from teehouse.cli import (
    audit_commands,
    chat_command,
    collateral_commands,
    config_command,
    demo_command,
    evidence_commands,
    keys_admin_commands,
    keys_commands,
    keys_dryrun_command,
    local_commands,
    model_commands,
    models_command,
    proxy_command,
    report_commands,
    verify_command,
    version_command,
)

__all__ = ["app"]

app = typer.Typer(
    name="teehouse",
    help="Verified, sealed LLM inference from your own machine.\n\n"
    "Nothing is sent before a node's evidence was appraised here, under your policy; nothing travels unsealed.",
    epilog="Exit codes: 0 done or accepted · 10 refused · 20 not supported · 30 malformed · 3 unreachable · "
    "2 usage · 1 a fault of ours",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # cli.main is the boundary; a traceback with local values could show a prompt
    context_settings={"help_option_names": ["-h", "--help"]},
)

AUDIT = "Audit (no network but for `collateral fetch`, no account, no settings)"
LOOK, USE, RUN = "Look", "Use", "Run a platform on this machine (SIMULATED hardware: it protects nothing)"

app.command("chat", rich_help_panel=USE)(chat_command.chat)
app.command("verify", rich_help_panel=USE)(verify_command.verify)
app.command("proxy", rich_help_panel=USE)(proxy_command.proxy)
app.command("demo", rich_help_panel=RUN)(demo_command.demo)
app.command("up", rich_help_panel=RUN)(local_commands.up)
app.command("down", rich_help_panel=RUN)(local_commands.down)
app.command("status", rich_help_panel=RUN)(local_commands.status)
app.command("models", rich_help_panel=RUN)(models_command.models)
app.command("version", rich_help_panel=LOOK)(version_command.version)

report = typer.Typer(help="A stored attestation report: its fields, its verdict; offline.", no_args_is_help=True)
report.command("parse")(report_commands.parse)
report.command("verify")(report_commands.verify)
report.command("compare")(report_commands.compare)
app.add_typer(report, name="report", rich_help_panel=AUDIT)

evidence = typer.Typer(help="One vendor's quote, report, log or manifest; offline.", no_args_is_help=True)
evidence.command("verify")(evidence_commands.verify)
evidence.command("show")(evidence_commands.show)
app.add_typer(evidence, name="evidence", rich_help_panel=AUDIT)

collateral = typer.Typer(help="Packs of endorsements for offline verification.", no_args_is_help=True)
collateral.command("fetch")(collateral_commands.fetch)
collateral.command("import")(collateral_commands.import_)
collateral.command("show")(collateral_commands.show)
app.add_typer(collateral, name="collateral", rich_help_panel=AUDIT)

config = typer.Typer(help="Settings: where each value comes from.", no_args_is_help=True)
config.command("show")(config_command.show)
app.add_typer(config, name="config", rich_help_panel=LOOK)

model = typer.Typer(help="Model weights: encrypted, so that only attested nodes open them.", no_args_is_help=True)
model.command("encrypt")(model_commands.encrypt)
model.command("decrypt")(model_commands.decrypt)
model.command("inspect")(model_commands.inspect)
model.command("import")(model_commands.import_)
app.add_typer(model, name="model", rich_help_panel=USE)

KEYS = "Keys (the Trusted Key Service)"
keys = typer.Typer(
    help="Your keys in a key service: who commands them, and which evidence gets them.", no_args_is_help=True
)
keys.command("show")(keys_commands.show)
keys.command("create")(keys_commands.create)
keys.command("import")(keys_commands.import_)
keys.command("rotate")(keys_commands.rotate)
keys.command("disable")(keys_commands.disable)
keys.command("enable")(keys_commands.enable)
keys.command("destroy")(keys_commands.destroy)
keys.command("cancel-destroy")(keys_commands.cancel_destroy)
keys.command("export")(keys_commands.export)
keys.command("dry-run")(keys_dryrun_command.dry_run)
keys.command("approve")(keys_admin_commands.approve)
keys.command("send")(keys_admin_commands.send)
keys_admin = typer.Typer(help="Your own admin keys, files on this machine.", no_args_is_help=True)
keys_admin.command("new")(keys_admin_commands.admin_new)
keys_admin.command("show")(keys_admin_commands.admin_show)
keys.add_typer(keys_admin, name="admin")
keys_tenant = typer.Typer(help="A tenant and its admins.", no_args_is_help=True)
keys_tenant.command("create")(keys_admin_commands.tenant_create)
keys_tenant.command("admins")(keys_admin_commands.tenant_admins)
keys.add_typer(keys_tenant, name="tenant")
keys_ring = typer.Typer(help="Rings: keys of one usage under one set of admins.", no_args_is_help=True)
keys_ring.command("create")(keys_admin_commands.ring_create)
keys_ring.command("admins")(keys_admin_commands.ring_admins)
keys.add_typer(keys_ring, name="ring")
keys_policy = typer.Typer(help="Release policies: which evidence gets a key.", no_args_is_help=True)
keys_policy.command("new")(keys_commands.policy_new)
keys_policy.command("show")(keys_commands.policy_show)
keys_policy.command("set")(keys_commands.policy_set)
keys.add_typer(keys_policy, name="policy")
keys_pool = typer.Typer(help="Pools: one session key for all nodes of an endpoint.", no_args_is_help=True)
keys_pool.command("create")(keys_commands.pool_create)
keys_pool.command("delete")(keys_commands.pool_delete)
keys.add_typer(keys_pool, name="pool")
app.add_typer(keys, name="keys", rich_help_panel=KEYS)

audit = typer.Typer(help="The log of every decision, proven on this machine.", no_args_is_help=True)
audit.command("list")(audit_commands.list_)
audit.command("show")(audit_commands.show)
audit.command("export")(audit_commands.export)
audit.command("verify")(audit_commands.verify)
audit.command("watch")(audit_commands.watch)
app.add_typer(audit, name="audit", rich_help_panel=KEYS)
