"""How report.html looks: by day and by night, on a telephone and on paper; and what a browser may do with it."""

# Nothing may be fetched or run, whatever an attacker smuggled into a name.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --soft: #444; --line: #ccc; --link: #0058a0;
        --edge: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181b; --text: #e4e6e8; --soft: #b0b5ba; --line: #454b51; --link: #7cc0f4; --edge: #56B4E9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; color: var(--text); background: var(--page);
       overflow-wrap: anywhere;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
nav { font-size: .9rem; margin-top: 1.2rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
summary h3 { display: inline; margin: 0; }
.banner { padding: .7rem 1rem; color: #fff; background: #B00020; font-weight: bold; }
.answer { border-left: .3rem solid var(--edge); padding: .1rem 0 .1rem .9rem; }
.answer p { margin: .4rem 0; }
.answer summary, .answer ul { font-size: .9rem; color: var(--soft); }
.answer ul { margin: .2rem 0; padding-left: 1.2rem; }
.scroll, pre { overflow-x: auto; margin: .4rem 0; }
pre { font-size: .85rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; overflow-wrap: normal; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
td:first-child { white-space: normal; min-width: 7rem; max-width: 14rem; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.foot { margin: 0 0 .3rem; font-size: .82rem; color: var(--soft); }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
.plot img { background: #fff; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.6rem; }
.worst { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .6rem; align-content: start; }
.worst figure { margin: 0; font-size: .75rem; line-height: 1.3; }
.worst img { width: 100%; background: #000; }
@media screen and (min-width: 60rem) {
  .plot img { max-height: 40rem; width: auto; }
}
@media screen and (max-width: 60rem) {
  .sides { gap: .8rem; }
  .worst { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media screen and (max-width: 46rem) {
  .plot { overflow-x: auto; }
  .plot img { max-width: none; width: 44rem; }
}
@media screen and (max-width: 30rem) {
  .worst { grid-template-columns: minmax(0, 1fr); }
  td:first-child { max-width: 9rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --text: #000; --soft: #444; --line: #ccc; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .12rem .25rem; }
  td { white-space: normal; overflow-wrap: normal; }
  .worst figure { font-size: 6.5pt; }
  figure, tr, .answer { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .banner { border: 2px solid #B00020; color: #B00020; background: none; }
}
"""
