/** Of the status page. Colours that also tell apart for people who see red and green alike (Okabe and Ito). */
export const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f23; --paper: #fff; --quiet: #66707a; --line: #d8dee4; --free: #e8ecf0; --up: #56b4e9; --own: #0072b2; --unknown: #b8c0c8; --silent: #e69f00; --unreachable: #d55e00; --good: #0b6e4f; --note: #8a6100; --bad: #b3390a }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --paper: #14181c; --quiet: #98a3ad; --line: #323a42; --free: #262c32; --unknown: #5a646e; --good: #4cc9a0; --note: #e5b454; --bad: #ff8a5c } }
body { margin: 0 auto; max-width: 66rem; padding: 1rem 1.5rem; color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem }
p { margin: .25rem 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--quiet) }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr.ours td { font-weight: 600 }
svg { display: block; max-width: 100%; height: auto; margin: .5rem 0 }
svg.traffic { width: 100%; background: var(--free); border-radius: 4px }
polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
polyline.sent { stroke: var(--own) }
polyline.received { stroke: var(--silent) }
rect.free { fill: var(--free) } rect.up { fill: var(--up) } rect.own { fill: var(--own) } rect.unknown { fill: var(--unknown) } rect.silent { fill: var(--silent) } rect.unreachable { fill: var(--unreachable) }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .4em 0 0 }
p .key:not(:first-child) { margin-left: 1em }
.key.free { background: var(--free) } .key.up { background: var(--up) } .key.own, .key.sent { background: var(--own) } .key.unknown { background: var(--unknown) } .key.silent, .key.received { background: var(--silent) } .key.unreachable { background: var(--unreachable) }
.quiet, .legend, footer { color: var(--quiet) }
.state { font-weight: 600 }
.good { color: var(--good) } .note { color: var(--note) } .bad { color: var(--bad) }
footer { margin: 2rem 0 1rem; font-size: .85rem }
`
