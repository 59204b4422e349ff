"""Puts standard input in the place of what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a page.

replace-block.py PAGE NAME
"""

import pathlib
import sys

page, name = pathlib.Path(sys.argv[1]), sys.argv[2]
begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
before, found, rest = page.read_text().partition(begin)
_, ended, after = rest.partition(end)
block = sys.stdin.read().strip()
if not found or not ended:
    sys.exit(f"{page} has no block {name}")
if not block:
    sys.exit(f"nothing to put into {page}")
page.write_text(f"{before}{begin}\n{block}\n\n{end}{after}")
