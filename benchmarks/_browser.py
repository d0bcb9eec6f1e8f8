"""Pictures as Chromium shows them: digests of a clip's frames at seek points."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PAGE = """<!doctype html><video id=v muted></video><script>
async function shown(name, times) {
  const video = document.getElementById("v");
  video.src = URL.createObjectURL(await (await fetch(name)).blob());
  await new Promise((done, failed) => { video.onloadeddata = done; video.onerror = () => failed(video.error.message) });
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight), pen = canvas.getContext("2d");
  const digests = [];
  for (const time of times) {
    // what is drawn right after the seek may still be the picture before it: wait until the new one is presented
    const seeked = new Promise(done => { video.onseeked = done });
    const presented = new Promise(done => { video.requestVideoFrameCallback(done); setTimeout(done, 1000) });
    video.currentTime = time;
    await Promise.all([seeked, presented]);
    pen.drawImage(video, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
    digests.push(Array.from(digest, b => b.toString(16).padStart(2, "0")).join(""));
  }
  return digests;
}
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


def shown_in_chromium(folder: Path, names: Sequence[str], times: Sequence[float], browser: str) -> list[list[str]]:
    """Seek to each time, seconds, in each of the folder's clips; SHA-256 of the pixels shown there."""
    from playwright.sync_api import sync_playwright

    (folder / "page.html").write_text(_PAGE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
            found = [page.evaluate("([name, times]) => shown(name, times)", [name, list(times)]) for name in names]
            chromium.close()
    finally:
        server.shutdown()
        (folder / "page.html").unlink()
    return found
