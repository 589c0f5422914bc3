"""The look of the report: light, dark, on a phone and in print, from one set of variables."""

STYLE = """
:root{--ink:#1c2024;--soft:#5d6670;--paper:#fff;--panel:#f5f6f8;--rule:#d9dde2;--up:15 128 77;--down:191 54 30;--c0:#1c2024;
--c1:#0072b2;--c2:#d55e00;--c3:#009e73;--c4:#a4508b;--c5:#9a7700;--c6:#6b5bd2;--good:#3b82c4;--bad:#d9663a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a0a9b3;--paper:#14171a;--panel:#1d2226;--rule:#363d44;
--up:70 200 130;--down:255 125 95;--c0:#e6e9ec;--c1:#56b4e9;--c2:#f0894a;--c3:#2fc99a;--c4:#d98bc0;--c5:#e0c04a;--c6:#a59bf0;--good:#5aa2e0;
--bad:#f0894a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1100px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.2rem;margin:2rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.25rem 0 .4rem}
ul{padding-left:1.2rem;margin:.5rem 0}
small,figcaption,.soft{color:var(--soft);font-size:.82rem}
.wide{overflow-x:auto;border:1px solid var(--rule);border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{padding:.4rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);font-variant-numeric:tabular-nums}
thead th{background:var(--panel);white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
tbody th{font-weight:400;position:sticky;left:0;background:var(--paper);min-width:8.5rem}
tr.group>*{background:var(--paper);font-weight:600;padding-top:.8rem}
tr.alone>*{background:var(--panel)}
td.n{white-space:nowrap}
td.up{background:rgb(var(--up)/calc(var(--s)*.45))}
td.down{background:rgb(var(--down)/calc(var(--s)*.45))}
.badge{display:inline-block;padding:0 .45em;border-radius:1em;font-size:.75rem;border:1px solid var(--rule);color:var(--soft)}
.badge.helps{color:rgb(var(--up));border-color:rgb(var(--up));font-weight:600}
.badge.hurts{color:rgb(var(--down));border-color:rgb(var(--down));font-weight:600}
.badge.leaks{color:rgb(var(--down));border-style:dashed}
.better{color:rgb(var(--up))}.worse{color:rgb(var(--down))}
.lead{font-size:1.1rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:.75rem}
.card{background:var(--panel);border-left:5px solid var(--soft);border-radius:4px;padding:.6rem .9rem}
.card p{margin:.15rem 0}.card.yes{border-color:rgb(var(--up))}.card.no{border-color:rgb(var(--down))}
.warning{border:1px solid rgb(var(--down));border-radius:4px;padding:.5rem .8rem;font-size:.9rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin-top:1.5rem;font-size:.88rem}
a{color:inherit}
td.none{min-width:0}
details{margin:.75rem 0}
summary{cursor:pointer;font-weight:600}
pre{background:var(--panel);padding:.75rem;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere}
figure{margin:0}
.figures figcaption{color:var(--ink);margin-bottom:.4rem}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1.25rem}
svg{width:100%;height:auto;display:block}
svg text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:var(--soft)}
svg text.strong{fill:var(--ink)}
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1.2}
.interval{stroke:var(--soft);stroke-width:3;stroke-linecap:round}
circle{fill:var(--soft)}
.helps{stroke:rgb(var(--up))}circle.helps{fill:rgb(var(--up))}
.hurts{stroke:rgb(var(--down))}circle.hurts{fill:rgb(var(--down))}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.thin{stroke-width:1.4}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}
.mark{stroke-width:2}.line.c0{stroke-width:5;stroke-opacity:.35}.line.leaks{stroke-dasharray:5 4}
circle.dot{fill:var(--paper);stroke-width:2}
rect.good{fill:var(--good);fill-opacity:.55}rect.bad{fill:var(--bad);fill-opacity:.55}
.changes{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:1rem}
.change p{margin:.2rem 0;font-size:.85rem;overflow-wrap:anywhere}
.four{display:grid;grid-template-columns:repeat(4,1fr);gap:4px}
img{max-width:100%;height:auto;display:block;border-radius:3px}
.four img{width:100%}
@media(max-width:640px){table.stack,table.stack tbody,table.stack tr,table.stack th,table.stack td{display:block;border:0}
table.stack thead,table.stack .none{display:none}table.stack tr{padding:.5rem 0;border-bottom:1px solid var(--rule)}
table.stack th,table.stack td{position:static;padding:.15rem .6rem}
table.stack th{font-weight:600}table.stack td{display:flex;justify-content:space-between;gap:1rem;text-align:right;white-space:normal}
table.stack td::before{content:attr(data-label);color:var(--soft)}}
@media print{nav{display:none}
:root{--ink:#000;--soft:#444;--paper:#fff;--panel:#f2f2f2;--rule:#bbb;--up:15 110 60;--down:170 40 20;--c0:#000;
--c1:#0072b2;--c2:#d55e00;--c3:#00805d;--c4:#8a3d75;--c5:#7d6000;--c6:#4f3fb0;--good:#3b82c4;--bad:#d9663a}
body{font-size:10pt}main{max-width:none;padding:0}.wide{overflow:visible;border:0}table{font-size:8pt}tbody th{position:static}
figure,.change,.card,tr{break-inside:avoid}section{break-inside:auto}h2,h3{break-after:avoid}h2+p{break-after:avoid;break-inside:avoid}
.changes{grid-template-columns:1fr 1fr}details.printed::details-content{content-visibility:visible;block-size:auto}
.printed pre{font-size:7pt;columns:3}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
