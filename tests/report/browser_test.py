"""In a real browser: hostile explanations run no script, not even where markup slips through, and the page's own does.

The same payloads run where neither the escaping nor the policy is in their way.
"""

import dataclasses
import html
import re

import numpy as np
import pytest
from report import chromium
from report.html_test import SIMPLE, explanation_of, measured, simple, spectrum_of, validation_of

from spex_jax.report.html import to_html

pytestmark = pytest.mark.skipif(chromium.path() is None, reason="no Chromium is installed")

NOWHERE = "http://127.0.0.1:9"
# Each runs a script, or fetches something, in one of the places of RAW.
PAYLOADS = [
    "<script>window.ran=1</script>",
    "</script><script>window.ran=1</script>",
    "</title></style></textarea><script>window.ran=1</script>",
    "--><script>window.ran=1</script><!--",
    "<!--<script>--></script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    '"><img src=x onerror=window.ran=1>',
    "'><svg onload=window.ran=1>",
    "<svg><script>window.ran=1</script></svg>",
    "<svg><animate onbegin=window.ran=1 attributeName=x dur=1s>",
    '" onmouseover="window.ran=1',
    '" tabindex="0" onfocus="window.ran=1" x="',
    '<a href="javascript:void(window.ran=1)">go</a>',
    '<a href="jAvascript&colon;void(window.ran=1)">go</a>',
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "<iframe src='javascript:parent.ran=1'></iframe>",
    "<details open ontoggle=window.ran=1>x</details>",
    "<video><source onerror=window.ran=1 src=x></video>",
    "<style>@keyframes k{}</style><b style='animation:k 1s' onanimationstart=window.ran=1>b</b>",
    "<form action='javascript:void(window.ran=1)'><button>go</button></form>",
    '";window.ran=1;//',
    '\u2028";window.ran=1;//',
    "${window.ran=1}",
    f"<script src={NOWHERE}/x.js></script>",
    f"<img src={NOWHERE}/x.png>",
    f"<link rel=stylesheet href={NOWHERE}/x.css>",
    f"<style>@import url({NOWHERE}/x.css);</style>",
    f"<p style='background:url({NOWHERE}/x.png)'>x</p>",
    f"<base href={NOWHERE}/><img src=y.png>",
    f"<meta http-equiv=refresh content='0;url={NOWHERE}/'>",
]
RAW = '<p title="{0}">{0}</p><script>let a = "{0}";</script><script>let b = `{0}`;</script>'
# Everything that a pointer or a keyboard could set off, and the time for it.
PROVOKE = """(async () => {
  for (const node of document.querySelectorAll("*"))
    for (const name of ["mouseover", "mouseenter", "focus", "click", "toggle"])
      node.dispatchEvent(new MouseEvent(name, {cancelable: true}));
  await new Promise((done) => setTimeout(done, 40));
  return window.ran === undefined && document.title !== "ran" ? 0 : 1;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page in the browser, from a file, and says whether anything ran or was fetched."""

    def open_page(content, name="page.html"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        browser.open((tmp_path / name).as_uri())
        return browser.run(PROVOKE) or bool(browser.requests or browser.dialogs)

    return open_page


def hostile(payload, kind):
    """An explanation with the payload in every place that holds a string, of a kind that is drawn in its own way."""
    names = tuple(f"{payload}{i}" for i in range(4))
    row = measured((0, 1), 0.2, 0.1, 0.05, "confirmed")
    details = {
        **dict.fromkeys(("units", "removal", "value", "target", "contrast", "own", "test_point"), payload),
        "lenses": [{payload: payload}],
        "tokens": [payload],
    }
    if kind == "text":
        text = " ".join([payload.replace(" ", "\u00a0")] * 4)
        details |= {"text": text, "spans": [match.span() for match in re.finditer(r"[^ ]+", text)]}
    elif kind == "layers":
        details["layers"] = [[f"{payload}{i // 2}"] for i in range(4)]
        details["columns"] = [f"{payload}{i % 2}" for i in range(4)]
    elif kind == "pictures":
        uri = "data:image/png;base64,iVBORw0KGgo="
        details |= {"pictures": {"units": [[uri]] * 4, "tests": [uri]}, "test_point": 0}
    answer = explanation_of(spectrum_of(4, SIMPLE), names=names, details=details)
    return dataclasses.replace(
        answer,
        settings={
            **dict.fromkeys(("method", "seed", "device", payload), payload),
            "versions": {payload: payload},
        },
        timings={payload: 1.0},
        validation=validation_of(row, names=names, index=payload),
    )


KINDS = ("names", "text", "layers", "pictures")


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_hostile_explanations_run_nothing(number, browser, opened):
    payload = PAYLOADS[number]
    assert opened(RAW.format(payload)), "the control runs nothing: this payload tests nothing"
    for kind in (KINDS[number % 4], KINDS[(number + 1) % 4]):
        assert not opened(to_html(hostile(payload, kind)), f"{kind} <img src=x onerror=window.ran=1>.html")
        assert not browser.violations  # nothing even tried
        assert browser.run("document.querySelectorAll('.sx[data-ready]').length") == 1
        assert payload.strip()[:9] in browser.run("document.body.innerText")


def test_the_policy_stops_what_slips_through(browser, opened):
    page, clean = to_html(simple()), 0
    for payload in PAYLOADS:
        if "http-equiv=refresh" in payload:  # no policy keeps a page from sending its reader elsewhere
            continue
        raw = page.replace("<h1>", f"{RAW.format(payload)}<h1>")
        assert not opened(raw), payload
        clean += not browser.violations
    assert clean <= 1  # each was stopped by the policy, not for another reason


def test_the_script_of_the_page_works_under_its_policy(browser, opened):
    e = simple()
    assert not opened(to_html(e))
    assert not browser.violations
    whole, without = e.spectrum(np.array([[1, 1, 1, 1], [1, 0, 1, 1]], np.bool_))
    browser.run("document.querySelector('.sx-reset').click()")
    assert browser.run("document.querySelector('.sx-prediction').textContent") == f"{whole:.3f}"
    browser.run("document.querySelector('.sx-u[data-i=\"1\"]').click()")
    assert browser.run("document.querySelector('.sx-prediction').textContent") == f"{without:.3f}"
    assert "Removed: bad" in browser.run("document.querySelector('.sx-removed').textContent")
    assert browser.run("document.querySelector('.sx-track b').style.left.endsWith('%')")
    assert "bad1: FSII" in browser.run("document.querySelector('.sx-unit').textContent")
    browser.run("document.querySelector('.sx-filter button[data-order=\"2\"]').click()")
    shown = (
        "[...document.querySelectorAll('tr[data-order]')].filter((row) => !row.hidden).map((row) => row.dataset.order)"
    )
    assert set(browser.run(shown)) == {"2"}
    colour = "getComputedStyle(document.querySelector('.sx-card')).backgroundColor"
    assert browser.run(colour) in ("rgb(255, 255, 255)", "rgb(24, 28, 34)")  # page.css applies
    assert browser.run("getComputedStyle(document.body).margin") == "0px"  # and so does body.css


@pytest.mark.parametrize("page", [True, False])
def test_it_works_within_another_page(page, browser, opened):
    content = html.escape(to_html(simple(), page=page))
    assert not opened(f'<iframe id="inner" srcdoc="{content}"></iframe>')
    inner = "document.getElementById('inner').contentDocument"
    assert browser.run(f"{inner}.querySelector('.sx-prediction').textContent")
    assert not browser.violations
