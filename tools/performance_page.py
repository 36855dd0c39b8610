"""Write docs/performance.md from what benchmarks/gpu.py measured: python -m tools.performance_page [--check]."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
GIB = 2**30

Values = Mapping[str, Any]

HEAD = "# Performance on a GPU\n"
NOT_YET = "Not yet run on a GPU.\n"
MEASURE = """## How to measure

```bash
python benchmarks/gpu.py --out docs/performance.json
python -m tools.performance_page
```

The first command takes at most eight minutes on one card of 80 GB and needs no hub, no data and no weights: the paper's
language models are built from their configurations on the card, with random weights. Install the extra `quantised` for
8 and 4 bits. `--sections rounds,memory` measures some sections anew and keeps the others of the file. `--models DIR`,
the folder of a language model, adds the profile `pocket` at its full budget. `--tiny --device cpu` tries everything in
small. What was measured is in the file whatever happens later. The second command writes this page.
"""


class UnfitError(Exception):
    """The measurements are none that the page may show."""


def page(document: Values | None) -> str:
    """Return the page of what was measured, None for nothing; raises UnfitError for what no GPU has measured."""
    if document is None:
        return "\n".join([HEAD, NOT_YET, MEASURE])
    if document["tiny"] or not document["device"].startswith("cuda"):
        raise UnfitError(f"these are tiny sizes or no GPU's (tiny: {document['tiny']}, device {document['device']})")
    sections = document["sections"]
    parts = [HEAD, "Made by `python -m tools.performance_page` from `performance.json`.\n", *_where(sections)]
    for name, (title, about, show) in SECTIONS.items():
        entry = sections.get(name, {"status": "not run", "why": "", "results": {}})
        parts += [f"## {title}\n", f"{about}\n", *_ended(entry)]
        if entry["results"]:
            parts += [part for part in show(entry["results"]) if part]
    return "\n".join([*parts, MEASURE])


def _where(sections: Values) -> Iterator[str]:
    """Yield on which card, with which versions and when the sections were measured, those of one place together."""
    places: dict[str, list[str]] = {}
    for name, entry in sections.items():
        if "provenance" in entry:
            places.setdefault(_place(entry["provenance"]), []).append(name)
    for place, names in places.items():
        yield f"{place}.\n" if len(places) == 1 else f"{', '.join(names)}: {place}.\n"


def _place(provenance: Values) -> str:
    hardware, packages, git = provenance["hardware"], provenance["packages"], provenance["git"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    commit = "no commit known" if git is None else f"commit {git['commit'][:10]}{' with changes' * git['dirty']}"
    card = f"{hardware['gpu']} ({hardware['gpu_bytes'] / GIB:.0f} GiB), CUDA {hardware['cuda']}"
    return f"{card}, {versions}, {commit}, {provenance['started'][:10]}"


def _ended(entry: Values) -> Iterator[str]:
    """Yield how a section ended, unless it is done."""
    if entry["status"] != "done":
        rest = " What follows was measured before." if entry["results"] else ""
        why = f" ({entry['why']})" if entry["why"] else ""
        yield f"{entry['status'].capitalize()}{why}.{rest}\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table whose numbers have three digits; nothing for no rows."""
    shown = [[number(cell) for cell in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *shown] if shown else []
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: Any) -> str:
    """Return a value as a cell shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _failures(results: Values) -> str:
    """Return a list of what could not be measured, and why."""
    return "".join(f"- {name}: {found['error']}\n" for name, found in results.items() if "error" in found)


def _machine(results: Values) -> list[str]:
    rows = [
        ["product of bfloat16 matrices, TFLOP/s", results.get("matmul_tflops")],
        ["copy, GB/s read and written", results.get("copy_gb_s")],
    ]
    return [table(["what", "measured"], rows)]


def _agreement(results: Values) -> list[str]:
    rows = [
        [
            name,
            found["losses_before"]["relative"],
            found["losses"]["relative"],
            found["gradients"]["relative"],
            found["gradients"]["absolute"],
            found["scores"]["absolute"],
            found["equal_answers"],
        ]
        for name, found in results.items()
    ]
    heads = ["cell", "losses before", "losses of stages", "gradients", "gradients, absolute", "scores, absolute"]
    return [table([*heads, "equal answers"], rows)]


def _rounds(results: Values) -> list[str]:
    rounds = {name: found for name, found in results.items() if "stages" in found}
    stages = [
        [name, stage, took["seconds"], took["steps"] or None, *_per_step(took)]
        for name, found in rounds.items()
        for stage, took in found["stages"].items()
    ]
    loops = [
        [
            name,
            found["harness_seconds"],
            found["bare_seconds"],
            found["harness_tokens_s"],
            4 * found["parameters"] * found["harness_tokens_s"] / 1e12,
            found["share"],
        ]
        for name, found in _below("loop/", results)
    ]
    answers = [
        [name, found["answers"], found["new_tokens"], found["seconds"], found["tokens_s"]]
        for name, found in _below("answers/", results)
    ]
    return [
        table(["round", "stage", "seconds", "steps", "seconds a step", "tokens a second"], stages),
        *_memory(rounds),
        table(["step of", "harness, s", "bare loop, s", "tokens a second", "TFLOP/s", "share of the bare loop"], loops),
        table(["answers of", "at a time", "tokens each", "seconds", "tokens a second"], answers),
    ]


def _below(prefix: str, results: Values) -> Iterator[tuple[str, Values]]:
    """Yield the results whose name begins with `prefix`, named without it."""
    for name, found in results.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), found


def _per_step(took: Values) -> list[float | None]:
    """Return seconds a step and tokens a second of a stage; None where it has no steps."""
    if not took["steps"] or not took["seconds"]:
        return [None, None]
    return [took["seconds"] / took["steps"], took["positions"] / took["seconds"]]


def _memory(results: Values) -> list[str]:
    """Return the table of seconds and memory of rounds, and what could not be measured."""
    rows = [
        [
            name,
            found["build_seconds"],
            found["round_seconds"],
            *(None if size is None else size / GIB for size in _bytes(found["memory"])),
            _share(found["memory"]),
        ]
        for name, found in results.items()
        if "memory" in found
    ]
    heads = ["round", "build, s", "round, s", "at rest, GiB", "peak, GiB", "estimate, GiB", "peak of estimate"]
    return [table(heads, rows), _failures(results)]


def _bytes(memory: Values) -> list[int | None]:
    return [memory["at_rest"], memory["peak"], memory["estimate"]["total"]]


def _share(memory: Values) -> float | None:
    return memory["peak"] / memory["estimate"]["total"] if memory["peak"] else None


def _variants(results: Values) -> list[str]:
    steps = [
        [name, stage, took["seconds"] / took["steps"]]
        for name, found in results.items()
        if "stages" in found
        for stage, took in found["stages"].items()
        if took["steps"]
    ]
    return [*_memory(results), table(["round", "stage", "seconds a step"], steps)]


def _processes(results: Values) -> list[str]:
    rows = [
        [
            name,
            found["n_devices"],
            found["steps"],
            *found["round_seconds"].values(),
            found["ratio"],
            found["equal_uploads"],
            found["largest_difference"],
        ]
        for name, found in results.items()
    ]
    heads = ["devices' model", "devices", "steps", "one process, s a round", "two, s a round", "ratio"]
    return [table([*heads, "equal uploads", "largest difference"], rows)]


def _pocket(results: Values) -> list[str]:
    rows = [
        [
            f"{name} ({found['slm']}, {found['llm']})",
            *(found["cost"]["seconds"].get(what) for what in ("training", "evaluation")),
            point,
            metric,
            value,
        ]
        for name, found in results.items()
        if "cost" in found
        for point, scores in found["scores"].items()
        for metric, value in scores.items()
    ]
    heads = ["algorithm (models)", "training, s", "evaluation, s", "evaluation point", "score", "mean over devices"]
    return [table(heads, rows), _failures(results)]


Show = Callable[[Values], list[str]]
SECTIONS: Mapping[str, tuple[str, str, Show]] = {
    "machine": ("The card", "What the card can do at most, by torch.", _machine),
    "agreement": (
        "Agreement with the CPU",
        "A round of each algorithm on the embedded models without dropout, on the CPU and on the GPU: the largest\n"
        "differences of losses before training, of the mean losses of all stages, of the gradients of the first step\n"
        "of every stage, and of scores; the share of equal answers. Relative where nothing else is said.",
        _agreement,
    ),
    "rounds": (
        "One round with the paper's models",
        "ML-ECS on MiniLLM-gpt2-760M (devices) and GPT-J-6B (server), bfloat16, random weights, answers of 64 tokens,\n"
        "every device with every modality. `mma` is what aggregation takes beside SE-CCL. Tokens are positions read\n"
        "in training; SE-CCL reads each batch with both models. A bare loop trains the same model and adapter under\n"
        "PEFT on inputs of the same shape. A token counts 4 operations per parameter: frozen weights get no gradient.",
        _rounds,
    ),
    "memory": (
        "Less memory",
        "The same round with gradient checkpointing and with base weights of 8 and 4 bits.",
        _variants,
    ),
    "processes": (
        "Two processes on one card",
        "Rounds of Multi-FedAvg, with the devices in the server's process and in two of their own (`processes:2`).",
        _processes,
    ),
    "pocket": (
        "The profile pocket",
        "One seed at the full budget with real language models, on the synthetic vast data.",
        _pocket,
    ),
}


def measured() -> Values | None:
    """Return what was measured, None when nothing was."""
    if not MEASURED.is_file():
        return None
    document: Values = json.loads(MEASURED.read_text(encoding="utf-8"))
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with --check say whether it is what was measured; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page is another")
    args = parser.parse_args(arguments)
    try:
        text = page(measured())
    except UnfitError as error:
        print(f"{MEASURED.name}: {error}; measure again with --device cuda", file=sys.stderr)
        return 2
    if args.check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(f"{PAGE.name} is not what was measured; run python -m tools.performance_page", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
