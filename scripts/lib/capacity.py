"""The capacity model of docs/scaling.md: from a table of measured inputs to tables of what a rate of runs takes.

capacity.py --check    does the page show what its inputs give?
capacity.py --write    write it there

Inputs are the first column and the second of the page's table "Inputs"; one that says `not measured` gives rows that say so. Everything between
`<!-- computed -->` and `<!-- end of computed -->` is made here.
"""

import math
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/scaling.md"
BEGIN, END = "<!-- computed -->", "<!-- end of computed -->"
RATES = [10, 1_000, 100_000]
STARTS = ["cold", "warm"]
LANGUAGES = ["python", "javascript", "shell"]


def inputs(text):
    section = text.split("## Inputs", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    found = {}
    for name, value in rows:
        found[name] = None if value.strip() == "not measured" else float(value.split()[0].replace(",", ""))
    return found


def number(value, unit=""):
    """Two significant digits, rounded up: a plan that is short is none."""
    if value is None:
        return "not measured"
    if value <= 0:
        return "0"
    scale = 10 ** max(math.floor(math.log10(value)) - 1, 0) if value >= 10 else 1
    rounded = math.ceil(round(value / scale, 9)) * scale
    return f"{rounded:,.0f}{unit}"


def overhead(known, start):
    """CPU milliseconds that one run costs beyond the caller's own code, over the mix of languages."""
    share = {language: known[f"share_{language}"] / 100 for language in LANGUAGES}
    costs = {language: known[f"cpu_ms_{start}_{language}"] for language in LANGUAGES}
    if any(costs[language] is None for language in LANGUAGES if share[language]):
        return None
    return sum(share[language] * costs[language] for language in LANGUAGES if share[language])


def computed(known):
    lines = ["### One core", "", "| Start | CPU per run, beyond the caller's code | Runs per second and core, hello | with the caller's code |", "| --- | --- | --- | --- |"]
    own = known["guest_cpu_ms"]
    for start in STARTS:
        cost = overhead(known, start)
        if cost is None:
            lines.append(f"| {start} | not measured | not measured | not measured |")
        else:
            lines.append(f"| {start} | {cost:.1f} ms | {1000 / cost:.0f} | {1000 / (cost + own):.1f} |")
    lines += ["", "### Three rates", "", "| | " + " | ".join(f"{rate:,} runs/s" for rate in RATES) + " |", "| --- |" + " --- |" * len(RATES)]

    def row(title, values):
        lines.append(f"| {title} | " + " | ".join(values) + " |")

    busy = known["utilisation"] / 100
    wall = known["guest_wall_s"]
    row("Runs at the same time", [number(rate * wall) for rate in RATES])
    cores = {}
    for start in STARTS:
        cost = overhead(known, start)
        cores[start] = [None if cost is None else rate * (cost + own) / 1000 / busy for rate in RATES]
        row(f"Cores, {start}", [number(value) for value in cores[start]])
        row(f"of these for starting, {start}", [number(None if cost is None else rate * cost / 1000 / busy) for rate in RATES])
    memory = [rate * wall * known["guest_memory_mb"] / 1024 for rate in RATES]
    row("Memory that guests use, GiB", [number(value) for value in memory])
    row("Memory that they may use, GiB", [number(rate * wall * known["max_memory_mb"] / 1024) for rate in RATES])
    per_node = known["node_cores"]
    for start in STARTS:
        nodes = [None if value is None else max(value / per_node, memory[i] / known["node_memory_gib"] / busy) for i, value in enumerate(cores[start])]
        row(f"Nodes of {per_node:.0f} cores and {known['node_memory_gib']:.0f} GiB, {start}", [number(value) for value in nodes])
    slot = known["memory_mb_per_warm_slot"]
    refill = known["slot_refill_s"]
    slots = [None if refill is None else rate * refill * 2 for rate in RATES]
    row("Warm slots, for twice the rate while one is refilled", [number(value) for value in slots])
    row("Memory of warm slots, GiB", [number(None if slot is None or value is None else value * slot / 1024) for value in slots])
    row("Reports to the control plane, per second", [number(rate) for rate in RATES])
    row("Heartbeats to it, per second", [number(rate * wall / known["heartbeat_s"] if wall >= known["heartbeat_s"] else 0) for rate in RATES])
    row("Results within RESULT_TTL, GiB; each daemon keeps at most MAX_STATE_BYTES", [number(rate * known["result_ttl_h"] * 3600 * known["result_kb"] / 1024 / 1024) for rate in RATES])
    return "\n".join(lines)


def main(action):
    text = PAGE.read_text()
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    new = f"{head}{BEGIN}\n{computed(inputs(text))}\n{END}{tail}"
    if action == "--write":
        PAGE.write_text(new)
    elif new != text:
        sys.exit("error: docs/scaling.md does not show what its inputs give: scripts/lib/capacity.py --write")
    print("docs/scaling.md shows what its inputs give")


if sys.argv[1:] not in (["--check"], ["--write"]):
    sys.exit(__doc__)
main(sys.argv[1])
