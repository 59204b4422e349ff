"""Writes the table of docs/hostile-corpus.md from what the corpus suite found.

corpus.py PAGE RESULTS...

Each of RESULTS has one JSON object a line: {"place", "program", "language", "found"}, and for each pass {"place", "summary"}. The table
stands between two marks in the page; whatever is around them stays.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SHORT = {"python": "py", "javascript": "js", "shell": "sh"}
RANK = ["held", "gap", "FAILED"]


def programs():
    """The list, in its order, from the suite's own source."""
    text = (ROOT / "tests/tests/corpus/programs.rs").read_text()
    listed = text[text.index("const PROGRAMS") : text.index("/// Programs that make no sense")]
    return [(match.group(1), re.findall(r'^ {12}"(.+)",$', match.group(2), re.MULTILINE))
            for match in re.finditer(r'^ {8}"(\w+)",\n {8}&\[\n(.*?)^ {8}\],', listed, re.MULTILINE | re.DOTALL)]


def elsewhere():
    text = (ROOT / "tests/tests/corpus/programs.rs").read_text()
    return re.findall(r'\(\s*"([^"]+)",\s*"([\w:]+)",?\s*\)', text[text.index("const ELSEWHERE") :])


def worst(cells, key, found):
    kind = found.partition(":")[0]
    before = cells.get(key)
    if before is None or RANK.index(kind) > RANK.index(before.partition(":")[0]):
        cells[key] = found


def cell(cells, place, program):
    words = []
    for language, short in SHORT.items():
        found = cells.get((place, program, language))
        if found == "held":
            words.append(short)
        elif found and found.startswith("gap"):
            words.append(f"{short}\\*")
        elif found:
            words.append(f"**{short} FAILED**")
    return " ".join(words) or "–"


def table(lines):
    cells, places, summaries, gaps = {}, [], [], {}
    for line in lines:
        place = line["place"]
        if place not in places:
            places.append(place)
        if "summary" in line:
            summaries.append((place, line["summary"]))
            continue
        worst(cells, (place, line["program"], line["language"]), line["found"])
        if line["found"].startswith("gap"):
            gaps.setdefault(line["found"].removeprefix("gap: "), set()).add(line["program"])
    out = []
    for group, listed in programs():
        out += [f"### {group}", "", "| | " + " | ".join(places) + " |", "| --- " * (len(places) + 1) + "|"]
        out += [f"| {program} | " + " | ".join(cell(cells, place, program) for place in places) + " |" for program in listed]
        out.append("")
    out += ["### What is no guest's", "", "| | Held by |", "| --- | --- |"]
    out += [f"| {program} | `{test}` |" for program, test in elsewhere()]
    out.append("")
    if gaps:
        out += ["\\* The wall that is missing there, by its name in `/info`; `tests/fixtures/known-gaps.txt` says why:", ""]
        out += [f"- `{wall}`: {', '.join(sorted(named))}" for wall, named in sorted(gaps.items())]
        out.append("")
    out += ["| Pass | |", "| --- | --- |", *(f"| {place} | {summary} |" for place, summary in summaries)]
    return "\n".join(out)


def main(page, *results):
    lines = [json.loads(line) for file in results for line in pathlib.Path(file).read_text().splitlines() if line]
    if not lines:
        sys.exit("error: no results")
    if not programs() or not elsewhere():
        sys.exit("error: the list is no longer found")
    page = pathlib.Path(page)
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
