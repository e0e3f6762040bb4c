# SPDX-License-Identifier: Apache-2.0
"""The one style sheet of the HTML report: follows the reader's light or dark choice, and prints in black on white."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f5f2;--card:#fff;--ink:#1b1d22;--soft:#5b6070;--line:#e2e0da;--good:#1a7f4b;
--bad:#b3261e;--amber:#8a5a00;--amberbg:#fff3d6;--badbg:#fdecea;--goodbg:#e8f5ee;--code:#f0eee9}
@media(prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1d2026;--ink:#e8e8ea;--soft:#9aa1b0;--line:#30343d;
--good:#58c98f;--bad:#ff8a80;--amber:#ffcf70;--amberbg:#3a2e12;--badbg:#3b1f1f;--goodbg:#16301f;--code:#272b33}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","Noto Sans CJK SC",sans-serif;-webkit-text-size-adjust:100%}
header,main,footer{max-width:62rem;margin:0 auto}body{padding:0 1rem}
header{margin-top:2rem;padding:1.4rem 1.4rem 1.25rem;background:var(--card);border:1px solid var(--line);
border-top:.4rem solid var(--soft);border-radius:.6rem}
header.accepted{border-top-color:var(--good)}header.refused{border-top-color:var(--bad)}
.brand{margin:0;color:var(--soft);letter-spacing:.06em;font-size:.78rem;text-transform:uppercase}
h1{margin:.15rem 0 .1rem;font-size:2.3rem;line-height:1.15;letter-spacing:-.02em}
.accepted h1{color:var(--good)}.refused h1{color:var(--bad)}
h1+p{margin:.2rem 0 1rem;color:var(--soft)}
h2{margin:0 0 .8rem;font-size:1.12rem}h2 small,h3 small{font-weight:400;color:var(--soft);margin-left:.35rem}
h3{margin:0 0 .3rem;font-size:1rem}
section{margin:1.1rem 0;padding:1.1rem 1.4rem 1.25rem;background:var(--card);border:1px solid var(--line);
border-radius:.6rem}
.amber{margin:.6rem 0;padding:.5rem .8rem;background:var(--amberbg);color:var(--amber);border-radius:.4rem;
font-weight:600}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.7rem 1.5rem;margin:.8rem 0 0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;overflow-wrap:anywhere}
code{font:.84em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--code);padding:.08em .32em;
border-radius:.25em;overflow-wrap:anywhere;font-weight:400}
.why{border-color:var(--bad);background:var(--badbg)}.why ol{margin:0;padding-left:1.3rem}.why li{margin:.2rem 0 1rem}
.why li:last-child{margin-bottom:0}.why p{margin:.1rem 0 .35rem}
.why dl{display:grid;grid-template-columns:5rem 1fr;gap:.1rem .8rem;margin:0}.why dl div{display:contents}
.why dd{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;align-self:center}
table{width:100%;border-collapse:collapse;font-size:.9rem}
th,td{padding:.38rem .6rem .38rem 0;text-align:left;vertical-align:top;border-top:1px solid var(--line);
overflow-wrap:anywhere}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.78rem}
tbody th{font-weight:500}
.checks{table-layout:fixed}.checks th:nth-child(1){width:9rem}.checks th:nth-child(2){width:34%}
.checks th:nth-child(4){width:22%}.checks td:nth-child(3){font-size:.84rem}
details{margin:.3rem 0 0;font-size:.84rem;color:var(--soft)}summary{cursor:pointer;width:max-content}
details p{margin:.35rem 0}.why details{font-size:.9rem}.where{font-size:.78rem}a{color:inherit}
tr:target{outline:2px solid var(--amber)}
.clause,.not-applicable td{color:var(--soft)}.clause{font-size:.8rem}
.state{white-space:nowrap;font-weight:600}.passed .state{color:var(--good)}
.failed .state,.refuses .state{color:var(--bad)}
.skipped .state{color:var(--amber)}.refuses.skipped .state{color:var(--bad)}
.refuses{background:var(--badbg)}.refuses td:first-child{box-shadow:inset .22rem 0 var(--bad);padding-left:.6rem}
.claims th{width:34%}.claims td,.bytes td{font:.84em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.amber-rows td:nth-child(2){color:var(--amber);font-weight:600}
.bytes{margin-bottom:1.2rem;font-size:.8rem}.bytes td:first-child{width:9rem;color:var(--soft);white-space:nowrap}
.bytes th{width:30%}.bytes td:last-child{white-space:pre-wrap}
footer{margin-top:1rem;margin-bottom:2.5rem;color:var(--soft);font-size:.85rem}
@media(max-width:40rem){.clause,.checks th:nth-child(4){display:none}.checks th:nth-child(1){width:6.4rem}
h1{font-size:1.8rem}section,header{padding-left:1rem;padding-right:1rem}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--good:#0b5c33;
--bad:#8e1a13;--amber:#6b4500;--amberbg:#fff;--badbg:#fff;--goodbg:#fff;--code:#f3f3f3}
body{font-size:10pt;padding:0}header,section{border-radius:0;max-width:none}header,main,footer{max-width:none}
section{padding:.6rem 0;border-width:1px 0 0}.why{border:2px solid var(--bad);padding:.6rem .8rem}
details:not([open]),summary{display:none}
tr,li{break-inside:avoid}h2,h3,thead{break-after:avoid}.fields{break-before:page}@page{margin:16mm 14mm}}
"""
