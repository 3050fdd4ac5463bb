"""Prints the tables of README.md from the scans that run.sh made: tables.py SCANS"""

import json
import sys
from pathlib import Path

NAMES = ["accuracy", "nll", "brier", "ece", "reliability", "resolution", "temperature", "matched.nll"]


def pm(mean, digits=2):
    if mean is None:
        return ""
    error = "" if mean["error"] is None else f" ± {mean['error']:.{digits}f}"
    return f"{mean['mean']:+.{digits}f}{error}".replace("-", "−")


def main():
    scans = {path.parent.name: json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*/scan.json"))}
    heads = {name: {(e["layer"], e["head"]): e for e in scan["effects"] if e["head"] is not None} for name, scan in scans.items()}
    print("| scan | clean logit difference | right | heads that raise / lower it, q ≤ 0.05 | of these beyond the null |")
    print("|---|---|---|---|---|")
    for name, scan in scans.items():
        of = [e for e in heads[name].values() if e["q"] <= 0.05]
        sides = [sum(e["changes"][1]["mean"] * sign > 0 for e in of) for sign in (1, -1)]
        null = [f"L{e['layer']}H{e['head']} ({pm(e['changes'][1])})" for e in of if e["null"] and e["null"]["p"] <= 0.05]
        compared = any(e["null"] for e in heads[name].values())
        told = (", ".join(null) or "none") if compared else "not compared"
        right = scan["calibration"]["values"][0]
        print(f"| {name} | {pm(scan['clean'][1])} | {right['mean']:.2f} | {sides[0]} / {sides[1]} of {len(heads[name])} | {told} |")
    print("\n| head | " + " | ".join(heads) + " | null p, facts-zero | writes itself, facts |")
    print("|---" * (len(heads) + 3) + "|")
    first = heads["facts-zero"]
    for at in sorted(first, key=lambda at: -first[at]["changes"][1]["mean"]):
        row = [pm(of[at]["changes"][1]) + ("*" if of[at]["q"] <= 0.05 else "") if at in of else "" for of in heads.values()]
        null = f"{first[at]['null']['p']:.2f}" if first[at]["null"] else ""
        print(f"| L{at[0]}H{at[1]} | " + " | ".join(row) + f" | {null} | {pm(first[at]['direct'])} |")
    print("\n| facts-zero | " + " | ".join(NAMES) + " |")
    print("|---" * (len(NAMES) + 1) + "|")
    row = lambda calibration: " | ".join(pm(value, 3) for value in calibration["values"][: len(NAMES)])
    print(f"| clean | {row(scans['facts-zero']['calibration'])} |")
    ranked = sorted(first, key=lambda at: -abs(first[at]["changes"][1]["mean"]))
    for at in ranked[:8]:
        print(f"| L{at[0]}H{at[1]} | {row(first[at]['calibration'])} |")


if __name__ == "__main__":
    main()
