"""How fast `ragkit qa-gen` is, and how much memory it takes; prints its own verdict.

    python scripts/bench/qa_gen.py            # all three
    python scripts/bench/qa_gen.py asking     # or asking, heuristic, memory

asking: 2,000 requests to a server on loopback that takes 200 ms for each, 64 in flight, journal and
all, against what no client can beat, 2,000 x 0.2 s / 64. heuristic: questions a second of processor
time on one core. memory: peak of the whole command on two sizes of corpus.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUESTS, LATENCY_S, CONCURRENCY = 2000, 0.2, 64
MOST, LEAST_PER_S, MOST_SLOPE = 1.15, 300, 0.5
DEMO = Path(__file__).parents[2] / "data" / "demo" / "passages.csv"


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", default=["asking", "heuristic", "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passages", type=Path, default=DEMO, help="for the heuristic teacher")
    parser.add_argument("--markup", default="plain", help="of its texts")
    parser.add_argument("--megabytes", type=int, nargs=2, default=(4, 40))
    given = parser.parse_args()
    verdicts = {
        "asking": lambda: asking(given.rounds),
        "heuristic": lambda: heuristic(given.passages, given.markup, given.rounds),
        "memory": lambda: memory(*given.megabytes),
        "server": serve,
    }
    if not all([verdicts[part]() for part in given.part]):
        sys.exit(1)


def asking(rounds: int) -> bool:
    """Time the asking of a whole run, against the floor that the server's latency sets."""
    server = subprocess.Popen(
        [sys.executable, __file__, "server"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    floor, ratios = REQUESTS * LATENCY_S / CONCURRENCY, []
    try:
        for i in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "passages.csv"
                write_prose(path, passages=REQUESTS, seed=i)
                teacher = {
                    "type": "openai", "model": "m", "base_url": url, "concurrency": CONCURRENCY,
                }  # fmt: skip
                run = qa_gen(path, Path(folder) / "run", teacher=teacher, styles=["factoid"],
                             unanswerable=0)  # fmt: skip
                seconds = json.loads((run / "run.json").read_text())["timings"]["asking"]
                answers = sum(1 for _ in (run / "journal.jsonl").open())
            assert answers == REQUESTS, f"{answers} answers"
            ratios.append(seconds / floor)
            print(f"asking: {REQUESTS:,} requests in {seconds:.2f} s, {ratios[-1]:.3f} x the floor")
    finally:
        server.terminate()
    return verdict("asking", statistics.median(ratios) <= MOST,
                   f"median {statistics.median(ratios):.3f} x, at most {MOST}")  # fmt: skip


def heuristic(passages: Path, markup: str, rounds: int) -> bool:
    """Time the rules alone, in processor time."""
    from ragkit.config.blocks import Chunking, Columns
    from ragkit.data.documents import read_documents
    from ragkit.qa.heuristic import generate
    from ragkit.stages.chunk import cut

    found = cut(read_documents(passages, Columns(), markup=markup), Chunking())
    texts = [(p.title, p.text) for p in (found.values() if isinstance(found, dict) else found)]
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        count = sum(len(generate(title, text, 3, 0)) for title, text in texts)
        rates.append(count / (time.process_time() - start))
        print(f"heuristic: {count:,} questions of {len(texts):,} passages, {rates[-1]:,.0f}/s")
    return verdict("heuristic", statistics.median(rates) >= LEAST_PER_S,
                   f"median {statistics.median(rates):,.0f}/s, at least {LEAST_PER_S}")  # fmt: skip


def memory(small: int, large: int) -> bool:
    """Compare the peak memory of the whole command on two sizes of corpus."""
    peaks = {}
    for megabytes in (small, large):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "passages.csv"
            write_prose(path, megabytes=megabytes, seed=0)
            program = (
                "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
                "import qa_gen; qa_gen.qa_gen(Path(sys.argv[2]), Path(sys.argv[3])); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            here = str(Path(__file__).parent)
            arguments = [here, str(path), str(Path(folder) / "run")]
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            peaks[megabytes] = int(done.stdout.split()[-1]) / 1024
            print(f"memory: {megabytes} MB of passages, peak {peaks[megabytes]:,.0f} MiB, "
                  f"{time.monotonic() - start:.0f} s")  # fmt: skip
    slope = (peaks[large] - peaks[small]) / (large - small)
    return verdict("memory", slope <= MOST_SLOPE,
                   f"{slope:.2f} MiB a MB of passages, at most {MOST_SLOPE}")  # fmt: skip


def qa_gen(passages: Path, output: Path, **values: object) -> Path:
    """Run qa-gen without the round trip, whose index is the corpus once more."""
    from ragkit.config.load import Source, build
    from ragkit.stages import STAGES
    from ragkit.stages.pipeline import run_stage

    module = STAGES["qa-gen"].load()
    values |= {"input": str(passages), "output": str(output), "filters": {"round_trip": None}}
    return run_stage("qa-gen", module, build(module.Config, Source(values)), sys.argv)


def write_prose(path: Path, *, passages: int = 0, megabytes: int = 0, seed: int) -> None:
    """Write a CSV of passages of some 800 characters, ten a document, all of other words."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    nouns = ["".join(rng.choices(syllables, k=3)) for _ in range(20_000)]
    written = count = 0
    with path.open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["title", "text"])
        while count < passages or written < megabytes * 1_000_000:
            sentences = []
            for _ in range(8):
                a, b, c, d = rng.choices(nouns, k=4)
                sentences.append(
                    f"The {a} {b} is a {c} that keeps the {d} within {rng.randrange(2, 900)} "
                    f"seconds, unless the {nouns[rng.randrange(20_000)]} is off."
                )
            text = " ".join(sentences)
            rows.writerow([f"Guide to the {nouns[count // 10 % 20_000]} {count // 10}", text])
            written, count = written + len(text), count + 1


def serve() -> bool:
    """Answer every request after 200 ms with the passage's first sentence; print the port."""

    def completion(request: bytes) -> bytes:
        passage = json.loads(request)["messages"][-1]["content"].split("\n")[-1]
        sentence = passage.split(". ")[0]
        pair = {"question": f"What about {' '.join(sentence.split()[1:5])}?", "answer": sentence}
        message = {"role": "assistant", "content": json.dumps({"pairs": [pair]})}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 300, "completion_tokens": 30, "total_tokens": 330}
        return json.dumps({"id": "c", "choices": [choice], "usage": usage}).encode()

    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in request.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = completion(await reader.readexactly(length))
                await asyncio.sleep(LATENCY_S)
                writer.write(head % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    asyncio.run(listen())
    return True


def verdict(part: str, passed: bool, text: str) -> bool:
    """Print and return a verdict."""
    print(f"{part}: {'PASS' if passed else 'FAIL'}: {text}", flush=True)
    return passed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
