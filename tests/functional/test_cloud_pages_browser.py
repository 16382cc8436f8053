"""The control plane's pages of `teehouse up` in a browser: approving a login, reading the documentation."""

from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from support.browser import browser

SCREENS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
Scheme = Literal["light", "dark"]
# The smallest contrast of a text with what it stands on, as WCAG 2 computes it, and the text.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number)
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor)
      if (colour.length < 4 || colour[3] > 0) return colour
    }
    return [255, 255, 255]
  }
  let worst = [99, '']
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement
    if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest('.skip')) continue
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))]
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (ratio < worst[0]) worst = [ratio, texts.currentNode.data.trim()]
  }
  return worst
}"""


def looked_at(page: Page, root: str) -> None:
    """What every page has to be like: the band first, no sideways scrolling, texts that can be read."""
    band = page.get_by_role("complementary", name="Emulated platform")
    expect(band).to_contain_text("EMULATED")
    expect(band.get_by_text(root)).to_be_in_viewport()
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    for control in page.locator("button, input:not([type=hidden])").all():
        box = control.bounding_box()
        assert box is not None
        assert box["height"] >= 44  # CSS pixels that a finger needs


def begun(teehouse: Any) -> dict[str, Any]:
    asked = {"client_id": "phala-cli", "scope": "user:profile cvms:* nodes:*"}
    answer: dict[str, Any] = httpx.post(f"{teehouse.api_url}/auth/device/code", json=asked).json()
    return answer


def fetched(teehouse: Any, login: dict[str, Any]) -> httpx.Response:
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    body = {"device_code": login["device_code"], "grant_type": grant}
    return httpx.post(f"{teehouse.api_url}/auth/device/token", json=body)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_login_is_approved_without_javascript_and_with_the_keyboard_alone(
    teehouse: Any, width: int, scheme: Scheme
) -> None:
    login, root = begun(teehouse), teehouse.ready["root"]
    with browser(width=width, scheme=scheme, javascript=False) as window:
        page = window.page
        page.goto(login["verification_uri_complete"])
        expect(page.get_by_label("Code")).to_have_value(login["user_code"])
        looked_at(page, root)
        page.get_by_label("API key").fill("phak_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This is no valid API key.")
        expect(page).to_have_title("Problem: Device login")
        looked_at(page, root)
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type(teehouse.api_key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_contain_text("see and change apps and CVMs")
        expect(page.get_by_role("main")).to_contain_text(login["user_code"])
        looked_at(page, root)
        page.get_by_role("button", name="Approve").press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Approved.")
        looked_at(page, root)
        (refused,) = window.complaints  # of the wrong key
        assert "403" in refused
        hosts = {urlsplit(address).netloc for address in window.addresses}
        assert hosts == {urlsplit(teehouse.api_url).netloc}
    token = fetched(teehouse, login).json()["access_token"]
    me = httpx.get(f"{teehouse.api_url}/auth/me", headers={"X-API-Key": token})
    assert me.json()["workspace"]["slug"] == teehouse.ready["workspace"]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_documentation_is_read(teehouse: Any, width: int, scheme: Scheme) -> None:
    with browser(width=width, scheme=scheme) as window:
        page = window.page
        page.goto(teehouse.ready["docs_url"])
        expect(page.get_by_role("heading", level=2).first).to_have_text("How to ask")
        expect(page.get_by_role("heading", level=2).nth(1)).to_have_text("Apps")
        expect(page.locator("#how pre")).to_contain_text(f"{teehouse.api_url}/apps")
        call = page.locator("#get_app_list")
        call.locator("summary").click()
        expect(call).to_contain_text("integer 1 to 100")
        looked_at(page, teehouse.ready["root"])
        call.get_by_role("link", name="AppPageV3").click()
        expect(page.locator("#schema-AppPageV3 summary")).to_be_in_viewport()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        looked_at(page, teehouse.ready["root"])
        assert window.complaints == []
        hosts = {urlsplit(address).netloc for address in window.addresses}
        assert hosts == {urlsplit(teehouse.api_url).netloc}
