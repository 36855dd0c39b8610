"""What the harness does on a GPU: agreement with the CPU, true architectures, less memory, two processes, pocket.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 8] [--sections agreement,rounds] [--models DIR]
    python benchmarks/gpu.py --tiny --device cpu

It is made for one card of 80 GB. The language models of the paper are built from their configurations with random
weights on the card itself, so no hub and no file is needed; what is measured does not depend on the values. Every
section is a process of its own with a time limit. What was measured is in the file whatever happens later.
`python -m tools.performance_page` makes docs/performance.md of the file. `--models` is a folder of a causal language
model, or one that holds `slm` and `llm`; with it the profile pocket is run at its full budget in the time that is left.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gpu_sections.runner import Options, Section, run_sections

SECTIONS = (
    Section("machine", "gpu_sections.machine:measure", 45),
    Section("agreement", "gpu_sections.agreement:measure", 110),
    Section("rounds", "gpu_sections.rounds:measure", 150),
    Section("memory", "gpu_sections.rounds:measure_memory", 120),
    Section("processes", "gpu_sections.fleet_processes:measure", 100),
    Section("pocket", "gpu_sections.pocket:measure", 480),
)


def main() -> None:
    """Run the sections and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU computes within a minute")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--sections", default=",".join(section.name for section in SECTIONS))
    parser.add_argument("--models", type=Path)
    args = parser.parse_args()
    known = {section.name: section for section in SECTIONS}
    names = args.sections.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--sections: '{unknown[0]}' is none of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        options = Options(args.device, args.tiny, Path(folder), args.models)
        run_sections([known[name] for name in names], options, args.out, 60 * args.minutes)


if __name__ == "__main__":
    main()
