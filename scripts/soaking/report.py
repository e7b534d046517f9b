"""What a soak came to, as Markdown."""

from __future__ import annotations

from scripts.benchmark import machine
from scripts.benchmark.measuring import percentile
from scripts.soaking.soak import Result

CURVE = 12  # points of the memory curve


def markdown(result: Result) -> str:
    ledger = result.ledger
    verdict = "no violation" if result.violation is None else f"**violation**: {result.violation}"
    about = machine.description()
    lines = [
        "# Soak",
        "",
        f"{result.seconds / 60:.1f} minutes, seed {result.seed}: {verdict}.",
        "",
        f"{about['CPU']}, {about['memory']}, {about['kernel']}, Python {about['Python']}, {about['runicornfs']}.",
        "",
        "| invariant | held, times checked |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in result.passed.items()),
        f"| no byte is ever wrong | {ledger.counts['bytes read and compared']:,} bytes |",
        f"| each error that a reader saw had its reason | {_errors(result):,} errors |",
        *(f"| memory is flat | {sentence} |" for sentence in result.memory),
        "",
        "| what happened | times | median | 99 % | longest (s) |",
        "|---|---|---|---|---|",
    ]
    for name, number in sorted(ledger.counts.items()):
        latencies = ledger.latencies.get(name)
        times = " | | "
        if latencies:
            times = f"{percentile(latencies, 0.5):.3f} | {percentile(latencies, 0.99):.2f} | {max(latencies):.1f}"
        lines.append(f"| {name} | {number:,} | {times} |")
    lines += [
        "",
        "| at rest, minute | mount | resident MiB | descriptors | threads | children |",
        "|---|---|---|---|---|---|",
    ]
    for seconds, name, held in result.at_rest:
        kinds = ", ".join(f"{number} {kind}" for kind, number in held.descriptors.most_common(3))
        descriptors = f"{held.descriptors.total()} ({kinds}, …)"
        cells = [f"{seconds / 60:.1f}", name, f"{held.resident / 2**20:.0f}", descriptors]
        lines.append("| " + " | ".join([*cells, str(held.threads), str(held.children)]) + " |")
    lines += ["", "| resident MiB of a process | over its life |", "|---|---|"]
    for (name, _), curve in result.samples.items():
        step = max(1, len(curve) // CURVE)
        if len(curve) >= CURVE:
            points = ", ".join(f"{held.resident / 2**20:.0f}" for _, held in curve[::step])
            lines.append(f"| {name}, {(curve[-1][0] - curve[0][0]) / 60:.1f} min | {points} |")
    return "\n".join([*lines, ""])


def _errors(result: Result) -> int:
    return sum(number for name, number in result.ledger.counts.items() if name.startswith("reads that ended with"))
