"""Draws the pictures of the board: the pages of the real server over real wrapped runs, in Chromium.

`make pictures` draws all into tests/pictures, as PNG with a palette; names as arguments (board, run, search, job)
select some. Times, rates and run names differ from one drawing to the next. The pictures show nothing of this machine.
"""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from selenium.webdriver import Chrome
from support import SCRIPT, Sqstee, wait_for
from support.board import ServedBoard, showing
from support.browser import chromium

FOLDER = Path(__file__).parent.parent / "pictures"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 60_000
WIDTH, SCALE = 1280, 1.25
_COLOURS = 40
# Prints lines at a pace: arguments are the exit status and the stretches of the output, each LINES/SECONDS/TEXT; one
# whose text begins with an exclamation mark goes to stderr. {n} is the number of the line.
_JOB = """
import sys, time
number = 0
for stretch in sys.argv[2:]:
    lines, seconds, text = stretch.split('/', 2)
    for _ in range(int(lines)):
        number += 1
        out = sys.stderr if text.startswith('!') else sys.stdout
        print(text.lstrip('!').format(n=number), file=out, flush=True)
        time.sleep(float(seconds) / int(lines))
    time.sleep(0 if int(lines) else float(seconds))
sys.exit(int(sys.argv[1]))
"""
_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"
_BATCH = "orders: batch {n} of 400, 4,310 rows, connection 7"
Job = tuple[str, str, int, Sequence[str]]
# hosts, jobs, exit statuses, stretches; in the order in which they are started
_TIMES = (3.0, 3.4, 2.9, 3.6, 3.1, 3.3, 3.0, 3.2, 0.9, 3.1, 3.4, 3.2, 3.5, 3.1, 3.3, 3.0, 4.6, 5.2, 4.9, 5.3, 5.1, 5.4)
_BACKUPS: list[Job] = [
    ("node17", "backup", 0, [f"60/{time}/archive {{n}} written"])
    if time > 1
    else ("node17", "backup", 2, [f"12/{time}/archive {{n}} written", "1/0.1/!backup: no space left on device"])
    for time in _TIMES
]
_OTHERS: list[Job] = [
    ("node5", "index", 0, ["20/1/segment {n}", "300/3/segment {n}", "20/2/segment {n}", "240/2/segment {n}"]),
    ("node8", "report", 0, ["30/2/page {n} rendered"]),
    ("node4", "nightly-etl", 0, [f"200/4/{_BATCH}", "40/6/invoices: batch {n}, waiting for a lock", f"160/3/{_BATCH}"]),
    ("node31", "export", 3, ["50/3/shard 1: record {n}", "3/1.5/!shard 2: connection reset by peer, retrying",
                             "1/0.1/!shard 2: connection reset by peer, giving up"]),
    ("node2", "train", 1, [
        "1/0.1/loading 12 tables", "40/2/epoch 1, step {n}: loss 0.9134",
        f"1/0.4/{_GREEN}epoch 1 done{_PLAIN}, checkpoint 1 saved", "2000/0/debug: gradient of layer {n}",
        "2/1/epoch 2, step {n}: loss 0.5170", "1/0.5/!learning rate lowered to 0.0005",
        f"1/0.4/{_GREEN}epoch 2 done{_PLAIN}, checkpoint 2 saved", "3/1/epoch 3, step {n}: loss 0.4982",
        "1/0.1/!Traceback (most recent call last):", '1/0.1/!  File "train.py", line 88, in step',
        "1/0.1/!ConnectionError: connection reset by peer: parameter server node40",
    ]),
]  # fmt: skip
_STEPS = [f"{lines}/4/step {{n}}, residual 1e-4" for lines in (30, 90, 200, 120, 260) * 9]
_GOES_ON: Job = ("node12", "simulate", 0, _STEPS)


class Scene:
    """A browser, and a board that shows runs of every kind."""

    def __init__(self, browser: Chrome, board: ServedBoard) -> None:
        self.browser = browser
        self._board = board
        browser.get(f"{board.url}?token={board.token}")

    def open(self, page: str, height: int, ready: str) -> None:
        """Show a page once an expression of JavaScript is true."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": SCALE, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(self._board.url + page)
        self.wait(ready)

    def wait(self, ready: str) -> None:
        """Wait until an expression of JavaScript is true."""
        wait_for(lambda: self.browser.execute_script(f"return {ready}"), ready)

    def picture(self) -> bytes:
        """What the page shows, as PNG."""
        found = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        self.browser.get("about:blank")
        script = """
            const [data, done] = arguments;
            const answer = await fetch(`data:image/png;base64,${data}`);
            const image = await createImageBitmap(await answer.blob());
            const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
            context.drawImage(image, 0, 0);
            const reader = new FileReader();
            reader.onload = () => done([image.width, image.height, reader.result.split(",")[1]]);
            reader.readAsDataURL(new Blob([context.getImageData(0, 0, image.width, image.height).data]));
        """
        script = f"(async function () {{{script}}})(...arguments)"
        width, height, text = self.browser.execute_async_script(script, found)
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height * width, 4)
        return png(pixels[:, :3], width, height)

    def runs(self) -> int:
        """How many runs there are."""
        return int(self._board.ask("api/runs?limit=1").json["matched"])

    def run(self, job: str) -> str:
        """The id of the latest run of a job."""
        return str(self._board.ask(f"api/runs?job={job}&limit=1").json["runs"][0]["run"])


def png(pixels: np.ndarray, width: int, height: int) -> bytes:
    """A PNG with a palette: of colours that are frequent, or unlike those that are in it already."""
    colours, places, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    distances = np.full(len(colours), np.inf)
    nearest = np.zeros(len(colours), np.uint8)
    chosen = [int(counts.argmax())]
    for number in range(min(_COLOURS, len(colours))):
        to_this = ((colours.astype(int) - colours[chosen[-1]].astype(int)) ** 2).sum(axis=1)
        nearest[to_this < distances] = number
        distances = np.minimum(distances, to_this)
        chosen.append(int((distances * np.sqrt(counts)).argmax()))
    palette = colours[chosen[:-1]]
    indices = nearest[places.reshape(-1)].reshape(height, width)
    rows = np.hstack([np.zeros((height, 1), np.uint8), indices]).tobytes()  # each row begins with its filter: none
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def board(scene: Scene) -> None:
    """The runs."""
    ready = "document.querySelector('tr:has(.state-running) .is-rate span')?.textContent > 0"
    scene.open("", 640, ready)


def run(scene: Scene) -> None:
    """A run that failed, with dropped lines in sight."""
    scene.open(f"run?id={scene.run('train')}", 640, "document.querySelectorAll('.row .message').length > 9")
    scene.browser.find_element("css selector", "#gap").click()
    scene.wait("document.querySelector('.row.lost.selected')")


def search(scene: Scene) -> None:
    """Hits in several runs."""
    scene.open("search?q=connection+reset", 300, "document.querySelector('#summary').textContent.includes('All lines')")


def job(scene: Scene) -> None:
    """The history of a job."""
    scene.open("job?job=backup", 560, "document.querySelectorAll('.bar').length > 20")


PICTURES: dict[str, Callable[[Scene], None]] = {"board": board, "run": run, "search": search, "job": job}


@contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    """Wrapped runs, one of which goes on, and a browser that shows their store."""
    sqstee, store = Sqstee(folder), folder / "store.db"

    def start(one: Job) -> subprocess.Popen[bytes]:
        host, name, status, stretches = one
        options = f"--to local:{store} --host {host} --job {name} --linger 0.3s --rate-limit 150/s --label team=data"
        words = [SCRIPT, *options.split(), "--", sys.executable, "-c", _JOB, str(status), *stretches]
        null = subprocess.DEVNULL
        return subprocess.Popen(words, env=sqstee.environ, stdin=null, stdout=null, stderr=null)

    with ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory())
        browser = stack.enter_context(chromium(Path(profile), "--hide-scrollbars"))
        media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        scene = Scene(browser, stack.enter_context(showing(store)))
        processes = []
        for number, one in enumerate([*_BACKUPS, *_OTHERS, _GOES_ON], 1):
            processes.append(stack.enter_context(start(one)))
            stack.callback(processes[-1].terminate)
            wait_for(lambda: scene.runs() == number, "run")  # noqa: B023
        for process in processes[:-1]:
            process.wait(60)
        yield scene


def main(names: list[str]) -> None:
    """Draw these pictures, or all."""
    with tempfile.TemporaryDirectory() as folder, scene_in(Path(folder)) as scene:
        for name in names or PICTURES:
            PICTURES[name](scene)
            path = FOLDER / f"web-{name}.png"
            data = scene.picture()
            path.write_bytes(data)
            print(f"{path}: {len(data)} bytes")
            assert len(data) <= MOST_BYTES


if __name__ == "__main__":
    main(sys.argv[1:])
