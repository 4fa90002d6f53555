"""Fewer labels by pretraining without any: the table of Gupta et al. (2022), on boxes of our own.

    python benchmarks/contrastive.py --work FOLDER [--workers 2] [--full] [--picture FILE]

Ten kinds of particles (--data, by default that of the variable TOMODASK_SHARED or ../shared/data
beside the project) in crowded simulated tomograms.  An encoder learns without labels from the boxes
that are not kept for the test; then classifiers learn from 25, 50, 75 and 100 % of the labels, from
a random start and from each encoder, in five splits that all starts share.  So differences are
paired: over splits, first weights of the last layer and the order of boxes; there is one encoder
per method and SNR.  Views are the paper's, or turned about any axis; "random, any turn" has no
encoder, but such views of the boxes with labels: what the turns are worth without pretraining.
The test's boxes are the same in all.  Where there are several learning rates, each start gets the
one that is best for it, on another split, with a quarter of the labels.

What is done is kept in the work folder, row by row: the same command goes on.  Without --full all
is reduced to what two cores do in some two hours; both settings are told in the output.
"""

from __future__ import annotations

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import argparse
import json
import multiprocessing
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contrastive_jobs import (
    FOLDER,
    FULL,
    KINDS,
    REDUCED,
    SEEDS,
    SHARES,
    STARTS,
    TURNED,
    Scale,
    choose,
    pretrain,
    simulated,
    tune,
)
from contrastive_tables import draw, report


def ready(scale: Scale, rows: list[dict[str, Any]], starts: list[str]) -> list[tuple[Any, ...]]:
    """What can be done next, in the order in which a half-done table is of most use."""
    encoders = {(row["snr"], row["start"]) for row in rows if row["what"] == "encoder"}
    encoders |= {(snr, start) for snr in scale.snrs for start in ("random", "random" + TURNED)}
    rates = {(row["snr"], row["start"]): row["rate"] for row in rows if row["what"] == "rate"}
    if len(scale.rates) == 1:
        rates = dict.fromkeys(encoders, scale.rates[0])
    done = {(row["snr"], row["start"], row.get("seed"), row.get("share")) for row in rows}
    jobs: list[tuple[Any, ...]] = []
    for snr in scale.snrs:
        every = [(snr, start) for start in ["random", "random" + TURNED, *starts]]
        shares = SHARES
        if snr != scale.snrs[0] and not scale.whole:
            every = [one for one in every if one[1] == "random" or one[1].endswith(TURNED)]
            shares = (SHARES[0], SHARES[-1])
        jobs += [(pretrain, *one) for one in every if one not in encoders]
        jobs += [(choose, *one) for one in every if one in encoders and one not in rates]
        for seed in range(SEEDS):
            for share in shares:
                for one in every:
                    paper = one[1] in STARTS and not one[1].endswith(TURNED)
                    if paper and not scale.whole and share not in (SHARES[0], SHARES[-1]):
                        continue
                    if one in rates and (*one, seed, share) not in done:
                        jobs.append((tune, *one, seed, share, rates[one]))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="the paper's settings, for a GPU")
    parser.add_argument("--starts", nargs="*", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--report", action="store_true", help="of what is done so far, no more")
    parser.add_argument("--data", type=Path, default=FOLDER)
    given = parser.parse_args()
    scale = FULL if given.full else REDUCED
    given.work.mkdir(parents=True, exist_ok=True)
    told = given.work / "scale.json"
    text = json.dumps(asdict(scale))
    if told.exists() and told.read_text() != text:
        sys.exit(f"{given.work} holds another scale's results; name another --work")
    told.write_text(text)
    file = given.work / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not given.report:
        for snr in scale.snrs:
            simulated(scale, snr, given.data, given.work)
        run(scale, rows, given.starts, file, given.workers)
    report(scale, FULL, rows, KINDS)
    if given.picture:
        draw(rows, given.picture)


def end_with_parent() -> None:
    """A worker whose parent was killed ends: it would write into the folder of the next run."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(
    scale: Scale, rows: list[dict[str, Any]], starts: list[str], file: Path, workers: int
) -> None:
    """All jobs that are not done, as many at once as there are workers."""
    spawn = multiprocessing.get_context("spawn")
    running: dict[Future[dict[str, Any]], tuple[Any, ...]] = {}
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent)
    with pool, file.open("a") as out:
        while True:
            for job in ready(scale, rows, starts):
                if len(running) < workers and job not in running.values():
                    running[pool.submit(job[0], scale, *job[1:], file.parent)] = job
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                row = future.result()
                rows.append(row)
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(time.strftime("%H:%M:%S"), {k: v for k, v in row.items() if k != "losses"})
                sys.stdout.flush()


if __name__ == "__main__":
    main()
