"""What a headless Chromium makes of a page: DOM after scripts, console, what it asks the network for, and its looks.

For tests of anything that writes HTML. The browser can resolve no host name, so an outside request fails but is seen.
"""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import NamedTuple

import matplotlib.image
import numpy as np

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Visit(NamedTuple):
    """The page after its scripts have run, its console, what it asked the network for, and how it looks."""

    dom: str
    console: list
    requests: list
    picture: np.ndarray


def visit(page, folder, *, size=(1200, 6400)):
    """Open a page in headless Chromium that can resolve no host name."""
    folder.mkdir()
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=8000"),
        *("--hide-scrollbars", "--enable-unsafe-swiftshader", f"--window-size={size[0]},{size[1]}"),
        *(f"--user-data-dir={folder}/profile", f"--screenshot={folder}/page.png", f"--log-net-log={folder}/net.json"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--dump-dom"),
    ]
    done = subprocess.run([BROWSER, *options, page.as_uri()], capture_output=True, text=True, timeout=240, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    picture = matplotlib.image.imread(folder / "page.png")
    return Visit(done.stdout, console, requests_of_page(folder / "net.json"), picture)


def requests_of_page(log):
    """URLs that the page asked for, from Chromium's network log; the browser's own errands have no origin."""
    found = json.loads(log.read_text())
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [e.get("params", {}) for e in found["events"] if e["type"] == start]
    urls = [p["url"] for p in begun if "url" in p and p.get("initiator") != "not an origin"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


class Page(HTMLParser):
    """What a page refers to, its tags, text and scripts, and how many plotly drawings stand in each plot's div."""

    VOID = frozenset(["meta", "link", "img", "br", "hr", "input", "source", "path"])

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.scripts, self.text = [], [], [], ""
        self.drawings, self.open = {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag != "a":  # a link is followed by a reader, not by the page
            self.addresses += [attrs[k] for k in ("src", "href", "xlink:href", "srcset", "data") if attrs.get(k)]
        self.addresses += re.findall(r"url\(\s*['\"]?([^'\")]+)", attrs.get("style") or "")
        name, classes = attrs.get("id"), attrs.get("class") or ""
        if tag == "div" and "plot" in classes.split():
            self.drawings[name] = 0
        inside = [plot for _, plot in self.open if plot in self.drawings]
        if inside and ("main-svg" in classes or "gl-canvas" in classes):
            self.drawings[inside[-1]] += 1
        if tag not in self.VOID:
            self.open.append((tag, name))

    def handle_endtag(self, tag):
        if tag not in self.VOID and self.open:
            self.open.pop()

    def handle_data(self, data):
        tag = self.open[-1][0] if self.open else ""
        if tag == "style":
            self.addresses += re.findall(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)", data)
        elif tag == "script":
            self.scripts.append(data)
        else:
            self.text += data

    @property
    def outside(self):
        return [a for a in self.addresses if re.match(r"(?i)\s*(https?:|wss?:|ftp:|//)", a)]
