"""What importing costs, each import in a process of its own.

    python benchmarks/startup.py

Medians over nine rounds; the imports take turns. "all rooms" is everything that scivae has: model, tl, pl,
metrics, geometry and datasets. Memory is the peak of the process.
"""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
from _common import write_markdown

ROUNDS = 9
IMPORTS = {
    "nothing": "",
    "scvi": "import scvi",
    "scivae": "import scivae",
    "scivae.model": "import scivae.model",
    "scivae, all rooms": "import scivae\nfor room in scivae.__all__: getattr(scivae, room)",
}
MEASURE = """
import resource, sys, time
start = time.perf_counter()
exec(sys.argv[1])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def main() -> None:
    rows = []
    for turn in range(ROUNDS + 1):
        for name, code in IMPORTS.items():
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, code],
                capture_output=True,
                encoding="utf-8",
                check=True,
            )
            seconds, memory = map(float, done.stdout.split())
            if turn:  # the first fills the caches of the system
                rows.append({"import": name, "seconds": seconds, "peak memory, MB": memory})
    table = pd.DataFrame(rows).groupby("import", sort=False).median().reset_index()
    scvi = table.set_index("import").loc["scvi", "seconds"]
    table["more than scvi, seconds"] = table["seconds"] - scvi
    print(table)
    text = " ".join(__doc__.split("\n\n")[2].split())
    write_markdown("startup", "What importing costs", text, table)


if __name__ == "__main__":
    main()
