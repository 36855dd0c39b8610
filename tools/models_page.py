"""Write the table of docs/models.md from what the zoo of the tests finds: python -m tools.models_page."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: python -m tools.models_page -->\n", "<!-- end of table -->\n"
HEAD = ("| model | family | LoRA on | answers | 8, 4 bits |", "|---|---|---|---|---|")

if TYPE_CHECKING:
    from zoo import Finding


def row(finding: Finding) -> str:
    """Return a family's line of the table."""
    if finding.refusal:
        return f"| {finding.name} | `{finding.family}` | refused: {finding.refusal} | | |"
    bits = ", ".join(map(str, finding.bits)) or "no"
    cache = "with a cache" if finding.cache else "without a cache, slowly"
    return f"| {finding.name} | `{finding.family}` | {finding.targets} | {cache} | {bits} |"


def page(text: str, findings: Iterable[Finding]) -> str:
    """Return the page with the table of `findings`."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = (*HEAD, *map(row, findings))
    return f"{before}{BEGIN}\n{chr(10).join(rows)}\n\n{END}{after}"


def find(folder: Path) -> list[Finding]:
    """Return what every family of the zoo can do; raises AssertionError where one computes what it should not."""
    import torch

    import zoo

    torch.set_num_threads(1)
    findings = []
    for name in zoo.FAMILIES:
        print(name, flush=True)
        finding = zoo.examine(name, folder / name)
        if not finding.refusal:
            bits = tuple(bits for bits in (8, 4) if zoo.quantises(str(folder / name), bits))
            finding = dataclasses.replace(finding, bits=bits)
        findings.append(finding)
    return findings


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as scratch:
        found = find(Path(scratch))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
