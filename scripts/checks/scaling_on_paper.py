"""The tables of docs/scaling.md: what a step costs on 8 to 1,024 GPUs, by `scripts/checks/scaling/cost.py`.

python scripts/checks/scaling_on_paper.py
"""

from __future__ import annotations

import sys
from dataclasses import replace

from scaling.cost import Device, Work, arithmetic, communication, efficiency, least, sent

WORLDS = (8, 16, 32, 64, 128, 256, 512, 1024)
H100 = Device("H100, 8 x 400 Gb/s a node", 0.4 * 989e12, 0.5 * 67e12, inside=450e9, between=8 * 50e9)
ETHERNET = replace(H100, name="H100, 100 Gb/s a node", between=12.5e9)
QWEN = Work(pairs=8192, documents=1, dimension=1024, trained=10_092_544, tokens=128, matrices=440e6)
MISTRAL = Work(pairs=2048, documents=2, dimension=4096, trained=41_943_040, tokens=768, matrices=6.98e9)
CASES = (("Qwen3-0.6B, 8,192 pairs of 128 tokens", QWEN), ("Mistral-7B, 2,048 triplets of 768 tokens", MISTRAL))
PER_DEVICE = 256


def main() -> int:
    """Print both tables for each case."""
    for title, work in CASES:
        for device in (H100, ETHERNET):
            _say(f"\n{title} in all, {device.name}")
            _table(device, dict.fromkeys(WORLDS, work))
            share = replace(work, pairs=PER_DEVICE)
            _say(f"\n{title.split(',')[0]}, {PER_DEVICE} pairs a GPU, {device.name}")
            _table(device, {world: replace(share, pairs=PER_DEVICE * world) for world in WORLDS})
    return 0


def _table(device: Device, works: dict[int, Work]) -> None:
    _say("| GPUs | batch | arithmetic ms | sent a GPU MB | of these embeddings | least MB | ms | efficiency |")
    _say("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for world, work in works.items():
        parts = sent(work, world)
        total = sum(parts.values())
        vectors = (parts["embeddings"] + parts["their gradients"]) / total
        _say(
            f"| {world:,} | {work.pairs:,.0f} | {1e3 * arithmetic(work, world, device):,.1f} | {total / 1e6:,.0f} "
            f"| {vectors:.0%} | {least(work, world) / 1e6:,.0f} | {1e3 * communication(work, world, device):,.1f} "
            f"| {efficiency(work, world, device):.0%} |"
        )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
