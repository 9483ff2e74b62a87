"""Make the table and write it: python -m tests.mutations docs/mutations.md."""

import sys
import tempfile
from pathlib import Path

from tests.mutations.page import page
from tests.mutations.table import cells
from tests.mutations.trial import bench

with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as shared:
    found = cells(shared)
Path(sys.argv[1]).write_text(page(found), encoding="utf-8")
bad = [cell for cell in found if cell.unwanted]
for cell in bad:
    print(f"{cell.outcome}: {cell.check.short}, {cell.fact}, {cell.way}: {cell.why}", file=sys.stderr)
sys.exit(bool(bad))
