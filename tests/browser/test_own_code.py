"""Own code sent by the page's form, and the page that lists it, in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from servers import Service
from visits import Visit
from zips import own_code

from largebatch.service.bundle import LARGEST_BYTES, digest_of_bundle

OPTIONS = ("--allow-code", "--max-running-per-owner", "0")


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    made = Visit(context.new_page(), service.url)
    yield made
    assert made.foreign == []
    assert [text for text in made.complaints if "422" not in text and "413" not in text] == []
    context.close()


@pytest.mark.slow
def test_a_zip_is_sent_shown_and_kept_while_a_run_has_it(visit: Visit, tmp_path: Path) -> None:
    page, mine, broken = visit.page, tmp_path / "mine.zip", tmp_path / "broken.zip"
    mine.write_bytes(own_code(tmp_path / "imported"))
    broken.write_bytes(b"no zip")
    visit.go("/runs/new")
    page.get_by_text("Other fields").click()
    page.get_by_label("a line").fill("model.entry_point=my_code:build\nmodel.name=null")
    page.get_by_label("Your code (zip)").set_input_files(broken)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#f-code-error")).to_contain_text("is no zip file")
    broken.write_bytes(bytes(LARGEST_BYTES + (2 << 20)))
    page.get_by_label("Your code (zip)").set_input_files(broken)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#notice")).to_contain_text("is larger than 20 MiB")
    visit.refuse_barriers()
    page.get_by_label("Your code (zip)").set_input_files(mine)
    page.get_by_label("Recipe", exact=True).select_option("digits-small-batch")
    expect(page.get_by_label("Global batch size")).to_have_value("32")
    assert page.get_by_label("Your code (zip)").evaluate("field => field.files[0].name") == "mine.zip", "it stays chosen when other fields change"
    page.get_by_text("Show the plan").click()
    expect(page.locator("#planned")).to_contain_text("made when the job starts")
    digest = digest_of_bundle(mine.read_bytes())
    expect(page.get_by_label("Or what was sent before")).to_have_value(digest)
    page.get_by_role("button", name="Start").click()
    page.locator("#job-code summary").click()
    expect(page.locator("#job-code")).to_contain_text("classes.txt")
    visit.keep("run-with-code")
    page.get_by_role("link", name="Code", exact=True).click()
    row = page.locator("#bundles tbody tr")
    expect(row).to_contain_text("digits-small-batch-")
    expect(row.get_by_role("button")).to_have_count(0)
    visit.refuse_barriers()
    visit.keep("code")
    row.get_by_text("digits-small-batch-").click()
    page.get_by_role("button", name="Cancel").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url("**/runs")
    page.get_by_role("link", name="Code", exact=True).click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Nobody has sent any yet.")).to_be_visible()
