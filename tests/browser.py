"""Pages opened in headless Chromium: how they look at a width, what they ask for, what they say on the console.

A plain page holds them in frames, because a browser window can't be made as narrow as a telephone: inside a frame of
400 pixels a page's width, its media queries and its scroll bars are those of a screen of 400 pixels.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=60000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
SECONDS = 180
"""A slow machine's worth; it takes two."""
BROWSERS_OWN = "not an origin"
"""What the log of the network calls the initiator of a request that no page made."""

HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
function look(page) {
  const root = page.documentElement, walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  page.querySelectorAll("details").forEach(part => part.open = true);
  const sizes = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), box = walker.currentNode.parentElement;
    if (text && box.getClientRects().length) sizes.push(parseFloat(getComputedStyle(box).fontSize));
  }
  const images = [...page.images], boxes = [...page.querySelectorAll(".scroll")];
  return {
    width: page.defaultView.innerWidth, overflow: root.scrollWidth - root.clientWidth,
    smallest: Math.min(100, ...sizes),
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    images: images.map(image => image.clientWidth),
    scrolled: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
    stuck: boxes.filter(box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "auto").length,
  };
}
function sorts(page) {
  return [...page.querySelectorAll("table.sortable")].map(table => {
    const seen = [], heads = [...table.tHead.rows[0].cells];
    for (const column of [1, 1, 0, 0]) {
      heads[column].querySelector("button").click();
      const cells = [...table.tBodies[0].rows].map(row => row.cells[column].textContent);
      seen.push({ column, cells, aria: heads.map(head => head.ariaSort) });
    }
    return seen;
  });
}
function filters(page) {
  return [...page.querySelectorAll("input[type=search]")].map(field => {
    const rows = [...field.nextElementSibling.querySelectorAll("tbody tr")], left = {};
    for (const words of ["S 3 1", "nowhere", ""]) {
      field.value = words;
      field.dispatchEvent(new Event("input"));
      left[words] = rows.filter(row => row.getClientRects().length).length;
    }
    return left;
  });
}
async function visit(source, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.src = source;
  await new Promise(ready => { frame.onload = ready; document.body.append(frame); });
  const page = frame.contentDocument;
  return { source, ...look(page), filters: filters(page), sorts: sorts(page) };
}
(async () => {
  const seen = [];
  for (const [source, width] of VISITS) seen.push(await visit(source, width));
  const out = document.createElement("pre"); out.id = "out";
  out.textContent = JSON.stringify(seen); document.body.replaceChildren(out);
})();
</script>"""


@dataclass(frozen=True)
class Opened:
    """`visits`: what the frames held, in order. `requests`: addresses that a page, not the browser, asked for."""

    visits: list[dict[str, Any]]
    console: list[str]
    requests: list[str]


def find_browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def open_pages(browser: str, folder: Path, visits: Sequence[tuple[str, int]]) -> Opened:
    """One start of the browser for all (file in `folder`, width) together."""
    harness, net_log = folder / "harness.html", folder / "net-log.json"
    harness.write_text(HARNESS.replace("VISITS", json.dumps(list(visits))))
    own = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}", "--dump-dom", harness.as_uri()]
    done = subprocess.run([browser, *FLAGS, *own], capture_output=True, text=True, timeout=SECONDS, check=False)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    console = [line.partition("CONSOLE")[2] for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(json.loads(unescape(found[1])), console, requests(net_log.read_text()))


def requests(net_log: str) -> list[str]:
    """By page, and not by the browser itself, which looks for updates of its own."""
    text = net_log.strip()
    tree = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")  # cut off when the browser ends
    starts = tree["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in tree["events"] if event["type"] == starts]
    return [params["url"] for params in begun if "url" in params and params["initiator"] != BROWSERS_OWN]
