"""A headless Chromium, driven through its pipe: pages are opened, and what their scripts did is read."""

import itertools
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--disable-default-apps", "--disable-extensions", "--metrics-recording-only", "--remote-debugging-pipe"),
)


def path():
    """Where it is, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One process with one page. A context manager.

    Attributes:
      requests: addresses that the page now open asked for over a network, those that its policy stopped left out.
      violations: what its policy stopped, as the browser words it.
      dialogs: messages of dialogs that it opened.
    """

    def __init__(self, profile):
        ours, theirs = os.pipe(), os.pipe()
        command = ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", path(), *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(ours[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read, self._rest = ours[1], theirs[0], b""
        self._numbers, self._session = itertools.count(1), None
        self._loaded, self._sent = False, {}
        self.violations, self.dialogs = [], []
        target = self.call("Target.createTarget", url="about:blank")["result"]["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["result"]["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._write)
        self._process.terminate()
        self._process.wait(10)
        os.close(self._read)

    @property
    def requests(self):
        return [address for address in self._sent.values() if address.startswith(("http", "ws"))]

    def call(self, method, **parameters):
        """Sends a command and waits for its answer; what happens meanwhile is kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                return answer

    def _next(self, seconds=30):
        until = time.monotonic() + seconds
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], max(0, until - time.monotonic()))[0], "the browser is silent"
            part = os.read(self._read, 2**20)
            assert part, "the browser has ended"
            self._rest += part
        first, self._rest = self._rest.split(b"\0", 1)
        event = json.loads(first)
        given = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self._sent[given["requestId"]] = given["request"]["url"]
            case "Network.loadingFailed" if given.get("blockedReason") == "csp":
                self._sent.pop(given["requestId"], None)
            case "Log.entryAdded" if "Content Security Policy" in given["entry"]["text"]:
                self.violations.append(given["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(given["message"])
                number = next(self._numbers)
                close = {"id": number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                os.write(self._write, json.dumps({**close, "sessionId": self._session}).encode() + b"\0")
        return event

    def open(self, address):
        """Opens a page and waits until it is loaded."""
        self._sent, self.violations, self.dialogs, self._loaded = {}, [], [], False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._next()

    def run(self, script):
        """The value of an expression, awaited, in the page, whose policy does not concern it; None where the page went
        elsewhere meanwhile.
        """
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "navigated" in answer.get("error", {}).get("message", ""):
            return None
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")
